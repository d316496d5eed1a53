"""Write docs/configuration.md from the dataclasses of the settings: python scripts/settings_page.py [--check]

`--check` writes nothing and exits with 1 where the page is not what the dataclasses say.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "configuration.md"
FILES = ("config.py", "simulated.py", "questions/settings.py", "deployment.py")
HEAD = """# Configuration

Every key of `partsong simulate`, with its default, then those of a deployment. Generated from `common/config.py`,
`common/simulated.py` and `common/deployment.py` by `scripts/settings_page.py`.

A key is given as `section.key=value` on the command line; `model=`, `data=`, `adapter=`, `privacy=` and `steps=` also
take the name of a file in `conf/`. `partsong simulate --cfg job` prints what a run would use.
"""
DEPLOYMENT = (
    ("`site.yaml`: of `partsong site`", "SiteConfig"),
    ("`coordinator.yaml`: of `partsong coordinator`", "CoordinatorConfig"),
    ("A job: what a coordinator asks its sites for", "JobConfig"),
    ("A canary: what tries the way of a job's updates", "CanaryConfig"),
)


def classes() -> dict[str, ast.ClassDef]:
    """Find the dataclasses by name."""
    trees = (ast.parse((ROOT / "common" / name).read_text()) for name in FILES)
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def constants() -> dict[str, str]:
    """Find the numbers that a default may name."""
    tree = ast.parse((ROOT / "common" / "deployment.py").read_text())
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    return {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in assigned}


def fields(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """List name, type, default and docstring of each field."""
    rows = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        default = "required" if item.value is None else ast.unparse(item.value)
        rows.append((ast.unparse(item.target), ast.unparse(item.annotation), default, text))
    return rows


def page() -> str:
    """Compose the page."""
    found = classes()
    top = [row for row in fields(found["SimulationConfig"]) if row[1] not in found]
    parts = [HEAD, *section("The run", "", found["SimulationConfig"], top)]
    for name, kind, _, _ in fields(found["SimulationConfig"]):
        if kind in found:
            parts += section(f"`{name}`", f"{name}.", found[kind], fields(found[kind]))
    parts += section("`audit`: of `partsong audit` only", "audit.", found["AuditConfig"], fields(found["AuditConfig"]))
    for title, name in DEPLOYMENT:
        rows = fields(found[name])
        below = [key for key, kind, _, _ in rows if kind in found]
        parts += section(title, "", found[name], [row for row in rows if row[1] not in found])
        parts += [f"As above: {', '.join(f'`{key}.*`' for key in below)}.", ""] if below else []
    return "\n".join(parts)


def section(title: str, prefix: str, node: ast.ClassDef, rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Compose one table."""
    lines = [f"## {title}", "", ast.get_docstring(node) or "", "", "| key | default | |", "|---|---|---|"]
    for name, kind, default, text in rows:
        shown = {"field(default_factory=dict)": "{}", "()": "[]", **constants()}.get(default, default)
        choices = kind.removeprefix("Literal[").removesuffix("]") if kind.startswith("Literal") else ""
        allowed = f" One of {choices}." if choices else ""
        lines.append(f"| `{prefix}{name}` | `{shown}` | {text}{allowed} |".replace("  |", " |"))
    return [*lines, ""]


def main() -> int:
    """Write or check the page."""
    wanted = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text() == wanted
        if not same:
            print("docs/configuration.md is out of date: run scripts/settings_page.py", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
