"""Reports as one HTML file that needs no network and runs no script."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

BASE = Path(__file__).with_name("page.html")


def render(template: Path, filters: dict[str, Callable], **values: Any) -> str:
    """A page of a template that extends `page.html`; all values are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, BASE.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template.name).render(values)
