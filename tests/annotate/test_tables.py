import pytest

from deemo_jax.annotate.tables import column, read_pairs, read_table, read_text
from deemo_jax.refusals import Refusal

TEXT = 'Name,Said\n\na1 ,"one, ""two""\nthree"\n , \na2\nb;c,好\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_quotes_and_blank_lines(tmp_path, encoding, end):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))
    table = read_table(path)
    assert table.columns == ("name", "said")
    (first, one), (second, short), (third, other) = table.rows
    assert (first, second, third) == (3, 6, 7)
    assert one == {"name": "a1", "said": f'one, "two"{end}three'}
    assert isinstance(short, Refusal)
    assert "1 cells, the columns are 2" in short.reason
    assert other == {"name": "b;c", "said": "好"}


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_the_first_line_tells_the_separator(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_text(f"name{separator}sentence\na1{separator}I won.\n")
    assert read_table(path).rows == [(2, {"name": "a1", "sentence": "I won."})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'name,said\na,b\nc,"d\ne,f\n', "begins on line 3 is no CSV"),
        (b'name,said\na,"b" c\n', "begins on line 2 is no CSV"),
        ("name,said".encode("utf-16"), "is not in UTF-8"),
        ("name,said\na,Andr\u00e9e est all\u00e9e".encode("cp1252"), "iconv .*CP1252"),
        ("name,said\na,\u597d".encode("gbk"), "iconv -f GB18030 -t UTF-8"),
        (b"class,Start,Class \n1,2,3\n", "several columns class: keep one"),
    ],
)
def test_what_is_no_table_is_refused_as_a_whole(tmp_path, data, message):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv \(No such file"):
        read_text(tmp_path / "none.csv")


def test_pairs_by_name(tmp_path):
    path = tmp_path / "subjects.csv"
    path.write_text("names,subject\na.mp4,p1\nb,p2\n,p3\nb,p2\nb,p3\nc,\n")
    pairs, rejections = read_pairs(path, ("name", "names"), ("subject",))
    assert pairs == {"a": "p1", "c": ""}  # nobody knows whose b is
    assert [r.line for r in rejections] == [4, 6]
    assert "subjects.csv: subject of 'b' is 'p3', and was 'p2'" in rejections[1].reason
    with pytest.raises(ValueError, match="no column who or person, its columns are"):
        read_pairs(path, ("who", "person"), ("subject",))


def test_the_first_column_of_those_there_are(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("b,a\n1,2\n")
    assert column(read_table(path), path, ("c", "a", "b")) == "a"
