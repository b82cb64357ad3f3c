import pytest

from deemo_jax.annotate.who import Who, read_who
from deemo_jax.config import ConfigError
from deemo_jax.refusals import Refusal


def test_a_name_tells_its_subject():
    assert read_who(r"^(\d+)_", None, False).find("184_24.0_27.4_22") == "184"
    assert read_who(r"p\d+", None, False).find("x_p07_y") == "p07"
    with pytest.raises(Refusal, match="finds no subject in 'x'"):
        read_who(r"^(\d*)", None, False).find("x")


def test_a_table_tells_it_by_name_or_by_what_the_pattern_found(tmp_path):
    (tmp_path / "s.csv").write_text("name,subject\n184,serena\na.mp4,bert\nb,\n\n,x\n")
    who = read_who("", tmp_path / "s.csv", False)
    assert who.find("a") == "bert"
    assert [r.line for r in who.rejections] == [6]
    assert who.find("0184") == "serena"
    assert not who.says_nothing
    for missing in ("b", "c"):
        with pytest.raises(Refusal, match=f"--subjects has no '{missing}'"):
            who.find(missing)
    assert read_who(r"^(\d+)_", tmp_path / "s.csv", False).find("184_1_2_3") == "serena"


def test_without_a_word_nobody_is_a_subject():
    assert Who().says_nothing
    with pytest.raises(Refusal, match="its subject is not stated"):
        Who().find("a")
    assert read_who("", None, True).find("a") == "a"


def test_flags_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="no regular expression"):
        read_who("(", None, False)
    with pytest.raises(ConfigError, match="goes with neither"):
        read_who("a", None, True)
