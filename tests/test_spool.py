import threading

from etils import epath

from deemo_jax.spool import Spool, growing


def append(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def test_what_grows_here_is_appended_where_it_is(tmp_path):
    assert growing(tmp_path / "a.txt") == tmp_path / "a.txt"


def test_what_grows_in_a_bucket_is_there_after_a_flush(bucket, tmp_path):
    path = epath.Path(f"{bucket}/{tmp_path.name}/log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("before\n")
    spool = Spool(seconds=3600.0)
    here = spool.stand_in(path, folder=False)
    assert spool.stand_in(path, folder=False) == here
    append(here, "one\n")
    assert path.read_text() == "before\n"
    spool.flush()
    assert path.read_text() == "before\none\n"
    append(here, "two\n")
    folder = spool.stand_in(path.with_name("events"), folder=True)
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"data")
    spool.close()
    assert path.read_text() == "before\none\ntwo\n"
    assert (path.parent / "events" / "deep" / "file").read_bytes() == b"data"
    assert not here.exists()


def test_it_is_copied_without_being_asked(bucket, tmp_path):
    path = epath.Path(f"{bucket}/{tmp_path.name}/log")
    spool = Spool(seconds=0.05)
    append(spool.stand_in(path, folder=False), "text")
    until = threading.Event()
    for _ in range(200):
        if path.exists():
            break
        until.wait(0.05)
    assert path.read_text() == "text"
    spool.close()


def test_what_cannot_be_copied_is_told_once_and_tried_again(
    bucket, tmp_path, monkeypatch, capsys
):
    path = epath.Path(f"{bucket}/{tmp_path.name}/log")
    spool = Spool(seconds=3600.0)
    append(spool.stand_in(path, folder=False), "text")

    def fail(*_):
        raise OSError("no route")

    with monkeypatch.context() as broken:
        broken.setattr(type(path), "write_bytes", fail)
        for _ in range(3):
            spool.flush()
    said = capsys.readouterr().err
    assert said == f"{path} is not up to date: no route\n"
    spool.close()
    assert path.read_text() == "text"


def test_a_slow_network_holds_nobody_up_who_appends(bucket, tmp_path, monkeypatch):
    path = epath.Path(f"{bucket}/{tmp_path.name}/log")
    spool = Spool(seconds=3600.0)
    here = spool.stand_in(path, folder=False)
    append(here, "text")
    asked, answers = threading.Event(), threading.Event()

    def wait(*_):
        asked.set()
        assert answers.wait(20)

    with monkeypatch.context() as slow:
        slow.setattr(type(path), "write_bytes", wait)
        copying = threading.Thread(target=spool.flush)
        copying.start()
        assert asked.wait(20)
        found = []
        asking = threading.Thread(
            target=lambda: found.append(spool.stand_in(path, folder=False))
        )
        asking.start()
        asking.join(5)
        assert found == [here]
        answers.set()
        copying.join()
    spool.close()
