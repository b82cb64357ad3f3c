"""What all reports have in common: nothing is fetched, nothing told becomes markup."""

from jinja2 import UndefinedError
import pytest

from deemo_jax import page


def test_a_page_is_the_base_with_a_templates_blocks_and_escapes_values(tmp_path):
    template = tmp_path / "some.html"
    template.write_text(
        '{% extends "page.html" %}{% block title %}{{ name | twice }}{% endblock %}'
        "{% block style %}p { color: red; }{% endblock %}"
        "{% block main %}<p>{{ name }}</p>{% endblock %}"
    )
    text = page.render(template, {"twice": lambda word: word * 2}, name="<b>")
    assert "<title>&lt;b&gt;&lt;b&gt;</title>" in text
    assert "<main>\n<p>&lt;b&gt;</p>" in text
    assert text.index("body {") < text.index("p { color: red; }") < text.index("</sty")
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    with pytest.raises(UndefinedError, match="name"):
        page.render(template, {"twice": str})
