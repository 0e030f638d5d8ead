"""The README's Python lines run as they stand."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_lines_run(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out == "(16,) (16, 8, 8, 1)\n"


def test_every_recipe_has_a_row_and_every_named_file_exists():
    text = README.read_text()
    root = README.parent
    for recipe in (root / "configs").glob("*.py"):
        assert f"`{recipe.stem}`" in text
    for name in re.findall(r"\b((?:configs|docs|genjax|tests)/[\w/.]+\.\w+)", text):
        assert (root / name).exists(), name
