"""The rows of a bulk job, and how they are cut into batches."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.bulk.epub import chapters
from cluster.bulk.inputs import Split, read_rows
from cluster.bulk.plan import Batch, WorkItem, cut_into_batches, from_json, item_of, to_json
from cluster.bulk.row import Row, read_recording
from cluster.bulk.settings import BulkSettings
from deployments.engines.registry import Task
from deployments.errors import MotetError
from serve_app.bulk import BulkOptions, job_of
from serve_app.config import AppConfig


def rows_of(path: Path, task: Task = "speech", split: Split = "line") -> list[Row]:
    return list(read_rows([path], task, split))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_jsonl_keeps_ids_and_voices_and_turns_bad_lines_into_faults(tmp_path: Path) -> None:
    lines = ['{"id": 7, "text": "One."}', "", "no json", '{"text": "Two.", "voice": "heart"}', '{"id": "x"}', "[1]"]
    rows = rows_of(written(tmp_path / "rows.jsonl", "\n".join(lines)))
    assert [(row.id, row.text, row.voice) for row in rows] == [
        ("7", "One.", None),
        ("000001", "", None),
        ("000002", "Two.", "heart"),
        ("x", "", None),
        ("000004", "", None),
    ]
    assert [bool(row.fault) for row in rows] == [False, True, False, True, True]
    assert "Line 3" in rows[1].fault
    assert "`text`" in rows[3].fault


@pytest.mark.parametrize(("name", "mark"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_tables_of_text(tmp_path: Path, name: str, mark: str) -> None:
    rows = rows_of(written(tmp_path / name, f"id{mark}text\na{mark}One.\nb{mark}\n"))
    assert [(row.id, row.text, bool(row.fault)) for row in rows] == [("a", "One.", False), ("b", "", True)]


@pytest.mark.parametrize(
    ("text", "task", "told"),
    [
        ("Hello there\nBye\n", "speech", r"no column `text`. Its columns: 'Hello there'\."),
        ("Id,Text\na,One.\n", "speech", r"'Id', 'Text'"),
        ("id;text\na;One.\n", "speech", r"'id;text'"),
        ("word " * 99 + ",x" * 99, "speech", r"columns: '(word )+\[...\]'(, 'x'){19} and more\."),
        ("id,audio\na,a.wav\n", "transcription", r"no column `path` or `file`\."),
        ("text,text\nOne.,Two.\n", "speech", r"2 columns `text`"),
    ],
)
def test_a_table_without_the_column_that_is_needed_is_refused(tmp_path: Path, text: str, task: Task, told: str) -> None:
    with pytest.raises(MotetError, match=f"rows.csv has .*{told}"):
        rows_of(written(tmp_path / "rows.csv", text), task)


@pytest.mark.parametrize(("task", "needed"), [("speech", "`text`"), ("separation", "`path` or `file` or `audio`")])
def test_parquet_without_the_column_that_is_needed_is_refused(tmp_path: Path, task: Task, needed: str) -> None:
    pq.write_table(pa.table({"Text": ["One."]}), tmp_path / "rows.parquet")
    with pytest.raises(MotetError, match=f"no column {needed}. Its columns: 'Text'"):
        rows_of(tmp_path / "rows.parquet", task)


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path / "rows.csv", "\n")) == []


def test_parquet_of_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["One.", None], "other": [1, 2]}), tmp_path / "rows.parquet")
    rows = rows_of(tmp_path / "rows.parquet")
    assert [(row.id, row.text, bool(row.fault)) for row in rows] == [("000000", "One.", False), ("000001", "", True)]


def test_a_line_of_json_that_python_cannot_hold_stops_nobody(tmp_path: Path) -> None:
    odd = [
        '{"id": "s", "text": "\\ud800"}',
        f'{{"text": {"9" * 5000}}}',
        "[" * 200_000,
        '{"id": "\\udc00", "text": "x"}',
    ]
    rows = rows_of(written(tmp_path / "rows.jsonl", "\n".join([*odd, '{"text": "\\ud83d\\ude00 One."}'])))
    assert [bool(row.fault) for row in rows] == [True] * 4 + [False]
    assert [row.id for row in rows] == ["s", "000001", "000002", "000003", "000004"]
    assert rows[-1].text == "\U0001f600 One."


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.txt"])
@pytest.mark.parametrize("marked", [False, True])
def test_text_that_is_not_utf8_is_a_fault_of_its_row_alone(tmp_path: Path, name: str, marked: bool) -> None:
    bodies = {
        ".jsonl": '{"text": "One."}\n{"text": "Caf\u00e9."}\n{"text": "Two."}\n',
        ".csv": "text\nOne.\nCaf\u00e9.\nTwo.\n",
        ".tsv": "text\nOne.\nCaf\u00e9.\nTwo.\n",
        ".txt": "One.\nCaf\u00e9.\nTwo.\n",
    }
    path = tmp_path / name
    path.write_bytes(bodies[path.suffix].encode("utf-16" if marked else "latin-1"))
    rows = rows_of(path)
    assert [row.text for row in rows] == (["One.", "Caf\u00e9.", "Two."] if marked else ["One.", "", "Two."])
    assert ["UTF-8" in row.fault for row in rows] == [False, not marked, False]


def test_csv_with_too_many_fields_or_an_open_quote_is_not_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.bulk.tables.LONGEST_FIELD", 200_000)
    lines = [
        "id,text",
        "z,too,many",
        "y,One.,",
        f"l,{'x' * 150_000}",
        f"m,{'x' * 250_000}",
        'q,"Two, three."',
        'o,"open',
    ]
    rows = rows_of(written(tmp_path / "rows.csv", "\n".join(lines)))
    assert [row.text[:12] for row in rows] == ["", "One.", "x" * 12, "", "Two, three.", ""]
    assert [bool(row.fault) for row in rows] == [True, False, False, True, False, True]
    assert "3 fields" in rows[0].fault
    assert rows[0].id == "z"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["id,text", "0,Zero.", "", '1,"open', *(f"{number},line" for number in range(2, 9))],
            "row of line 4 .* up to 11",
        ),
        (["id,text", '1,"two', 'lines."', '2,"open', "3,line", '4,"quoted"'], "row of line 4 .* up to 6"),
        (['id,"text', "1,One."], "row of line 1 .* up to 2"),
    ],
)
def test_a_quote_that_takes_other_rows_with_it_is_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    with pytest.raises(MotetError, match=told):
        rows_of(written(tmp_path / "rows.csv", "\n".join(lines)))


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path / "rows.tsv", 'id\ttext\na\t"One.\nb\t"Two," he said.\n'))
    assert [row.text for row in rows] == ['"One.', '"Two," he said.']


@pytest.mark.parametrize("damage", ["no parquet", "cut short", "utf-16"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / ("rows.txt" if damage == "utf-16" else "rows.parquet")
    if damage == "utf-16":
        path.write_bytes("One.".encode("utf-16") + b"x")
    elif damage == "no parquet":
        path.write_bytes(b"PAR1 and no more, PAR1")
    else:
        pq.write_table(pa.table({"text": ["One."] * 1000}), path)
        whole = path.read_bytes()
        path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    with pytest.raises(MotetError, match=path.name):
        rows_of(path)


def test_bytes_that_are_not_utf8_in_parquet_are_a_fault_of_their_row(tmp_path: Path) -> None:
    texts = pa.array([b"One.", b"Caf\xe9", b"Two."], pa.binary())
    pq.write_table(
        pa.table({"text": pa.Array.from_buffers(pa.string(), 3, texts.buffers())}), tmp_path / "rows.parquet"
    )
    rows = rows_of(tmp_path / "rows.parquet")
    assert [row.text for row in rows] == ["One.", "", "Two."]
    assert "UTF-8" in rows[1].fault


def test_an_id_that_we_make_up_is_never_one_that_was_given(tmp_path: Path) -> None:
    lines = ['{"text": "One."}', '{"text": "Two."}', '{"id": "000000", "text": "Three."}']
    rows = rows_of(written(tmp_path / "rows.jsonl", "\n".join(lines)))
    assert [row.id for row in rows] == ["000000-2", "000001", "000000"]


def test_recordings_of_equal_stems_have_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("x/a.m4a", "x/a.wav", "y/a.wav", "y/z/a.wav", "z/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    inputs = [tmp_path / "x", tmp_path / "y", tmp_path / "z" / "a.wav", tmp_path / "y"]
    rows = list(read_rows(inputs, "transcription", "line"))
    second_time = [str(tmp_path / "y" / "a.wav"), "y/z/a.wav"]
    assert [row.id for row in rows] == ["a", "a.wav", "y/a.wav", "z/a", "z/a.wav", *second_time]


def test_a_file_name_that_is_no_text_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.wav").write_bytes(b"sound")
    (row,) = rows_of(tmp_path, "transcription")
    assert row.id == "a\\udcff"
    assert row.recording is not None
    assert read_recording(row.recording) == b"sound"


def test_a_path_is_beside_its_table_and_one_that_no_file_can_have_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    pq.write_table(pa.table({"path": ["a.wav", "a\0.wav"]}), tmp_path / "rows.parquet")
    found, odd = rows_of(tmp_path / "rows.parquet", "transcription")
    assert found.recording is not None
    assert found.recording.path == str((tmp_path / "a.wav").resolve())
    assert "cannot be read" in odd.fault


def test_a_row_group_of_recordings_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = [f"{number}".encode() for number in range(6)]
    pq.write_table(pa.table({"audio": sounds}), tmp_path / "rows.parquet", row_group_size=3)
    read: list[int] = []

    class Spied(pq.ParquetFile):  # type: ignore[misc]
        def read_row_group(self, group: int, **more: Any) -> pa.Table:
            read.append(group)
            return super().read_row_group(group, **more)

    rows = rows_of(tmp_path / "rows.parquet", "transcription")
    monkeypatch.setattr(pq, "ParquetFile", Spied)
    assert [read_recording(row.recording) for row in rows if row.recording] == sounds
    assert read == [0, 1]


def test_plain_text_by_line_and_by_paragraph(tmp_path: Path) -> None:
    path = written(tmp_path / "book.txt", "\ufeffOne\ntwo.\n\n\nThree.\n")
    assert [row.text for row in rows_of(path)] == ["One", "two.", "Three."]
    assert [row.text for row in rows_of(path, split="paragraph")] == ["One two.", "Three."]


def test_rows_with_one_id_are_refused_with_all_their_lines(tmp_path: Path) -> None:
    texts = [f'{{"id": "{id}", "text": "One."}}' for id in ("a", "b", "a", "c", "b", "a")]
    first = written(tmp_path / "rows.jsonl", "\n".join(texts))
    second = written(tmp_path / "more.csv", "id,text\nd,Two.\na,Three.\n")
    with pytest.raises(MotetError) as caught:
        list(read_rows([first, second], "speech", "line"))
    assert "'a': line 1 of rows.jsonl, line 3 of rows.jsonl, line 6 of rows.jsonl, row 3 of more.csv" in str(
        caught.value
    )
    assert "'b': line 2 of rows.jsonl, line 5 of rows.jsonl" in str(caught.value)
    assert "'c'" not in str(caught.value)


def test_an_error_about_equal_ids_is_bounded(tmp_path: Path) -> None:
    rows = [f'{{"id": "{number % 50}", "text": "One."}}' for number in range(5000)]
    with pytest.raises(MotetError, match=r"(?s)and 80 more\n  '1'.*and 40 more ids") as caught:
        rows_of(written(tmp_path / "rows.jsonl", "\n".join(rows)))
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("name", ["sounds", "sounds/a.wav"])
def test_recordings_without_a_task_get_a_hint(tmp_path: Path, name: str) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_bytes(b"sound")
    with pytest.raises(MotetError, match="--task transcription"):
        rows_of(tmp_path / name)


def test_the_other_columns_of_a_table_are_kept(tmp_path: Path) -> None:
    table = written(tmp_path / "rows.csv", "id,text,seconds,scene\na,One.,5,bar\nb,,6,street\n")
    assert [row.others for row in rows_of(table)] == [
        {"input_seconds": "5", "scene": "bar"},
        {"input_seconds": "6", "scene": "street"},
    ]
    lines = written(tmp_path / "rows.jsonl", '{"text": "One.", "tags": ["a", "\\ud800"], "take": 2, "none": null}\n')
    assert rows_of(lines)[0].others == {"tags": '["a", "\\ud800"]', "take": 2}
    parquet = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"text": ["What was said."], "audio": [b"sound"], "other": [b"bytes"], "take": [2]}), parquet
    )
    assert rows_of(parquet, "transcription")[0].others == {"input_text": "What was said.", "take": 2}


@pytest.mark.parametrize(
    ("name", "task"), [("rows.doc", "speech"), ("rows.txt", "transcription"), ("gone.csv", "speech")]
)
def test_what_is_no_input_is_refused(tmp_path: Path, name: str, task: Task) -> None:
    if not name.startswith("gone"):
        written(tmp_path / name, "text")
    with pytest.raises(MotetError):
        rows_of(tmp_path / name, task)


def test_recordings_from_a_folder_a_table_and_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "sounds" / "deep").mkdir(parents=True)
    first, second = tmp_path / "sounds" / "a.wav", tmp_path / "sounds" / "deep" / "b.flac"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    from_folder = rows_of(tmp_path / "sounds", "transcription")
    assert [row.id for row in from_folder] == ["a", "deep/b"]
    table = written(tmp_path / "rows.csv", "id,path\nx,sounds/a.wav\ny,gone.wav\n")
    from_table = rows_of(table, "separation")
    assert from_table[0].recording == from_folder[0].recording
    assert "gone.wav" in from_table[1].fault
    sounds = [b"first", b"second", b"third"]
    pq.write_table(pa.table({"id": ["p", "q", "r"], "audio": sounds}), tmp_path / "rows.parquet", row_group_size=2)
    from_parquet = rows_of(tmp_path / "rows.parquet", "transcription")
    for row, sound in zip([*from_folder, *from_parquet], [*sounds[:2], *sounds], strict=True):
        assert row.recording is not None
        assert read_recording(row.recording) == sound
        assert row.recording.digest == hashlib.sha256(sound).hexdigest()


def test_a_recording_that_changed_since_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"before")
    (row,) = rows_of(tmp_path / "a.wav", "transcription")
    (tmp_path / "a.wav").write_bytes(b"after")
    assert row.recording is not None
    with pytest.raises(MotetError, match="changed"):
        read_recording(row.recording)


# --- EPUB

PACKAGE = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="nav" href="nav.xhtml"/><item id="two" href="text/ch%202.xhtml"/><item id="one" href="text/ch1.xhtml"/>
<item id="cover" href="text/cover.xhtml"/></manifest>
<spine><itemref idref="cover"/><itemref idref="one"/><itemref idref="two"/><itemref idref="nav" linear="no"/></spine></package>"""
CHAPTER_1 = """<?xml version="1.0"?><!DOCTYPE html [<!ENTITY big "aaaa">]>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>No</title><style>p {}</style></head>
<body><h1>The <em>first</em> one</h1><p>It  was
dark &amp; cold.</p><p>Really<br/>so.</p><script>var x;</script></body></html>"""
CHAPTER_2 = "<html><body><p>No heading&nbsp;here &#8212; <ruby>漢<rt>kan</rt></ruby>.</p></body></html>"


def book(path: Path, **more: str | bytes) -> Path:
    files: dict[str, str | bytes] = {
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/package.opf"/></rootfiles></container>',
        "OPS/package.opf": PACKAGE,
        "OPS/text/ch1.xhtml": CHAPTER_1,
        "OPS/text/ch 2.xhtml": CHAPTER_2,
        "OPS/text/cover.xhtml": "<html><body><img src='c.png'/></body></html>",
        "OPS/nav.xhtml": "<html><body><p>not this</p></body></html>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (files | more).items():
            archive.writestr(name, text)
    return path


def test_chapters_in_reading_order_as_they_are_read_aloud(tmp_path: Path) -> None:
    found = list(chapters(book(tmp_path / "book.epub")))
    assert [(chapter.title, chapter.text) for chapter in found] == [
        ("The first one", "The first one\n\nIt was dark & cold.\nReally\nso."),
        ("ch 2.xhtml", "No heading here — 漢."),
    ]
    rows = rows_of(tmp_path / "book.epub")
    assert [row.id for row in rows] == ["book-001 The first one", "book-002 ch 2.xhtml"]


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("new.xhtml#top", "new.xhtml"),
        ("new%201.xhtml#top", "new 1.xhtml"),
        ("new%201.xhtml", "new%201.xhtml"),
        ("New.xhtml", "new.XHTML"),
        ("new%201.xhtml", "New 1.xhtml"),
    ],
)
def test_a_chapter_is_found_however_its_address_is_written(tmp_path: Path, href: str, name: str) -> None:
    package = PACKAGE.replace("text/ch1.xhtml", f"text/{href}")
    rows = rows_of(book(tmp_path / "book.epub", **{"OPS/package.opf": package, f"OPS/text/{name}": CHAPTER_1}))
    assert [row.id for row in rows] == ["book-001 The first one", "book-002 ch 2.xhtml"]


def test_a_chapter_that_is_not_in_the_book_is_a_fault_of_its_row(tmp_path: Path) -> None:
    package = PACKAGE.replace("text/ch1.xhtml", "text/gone.xhtml").replace('idref="cover"', 'idref="unlisted"')
    rows = rows_of(book(tmp_path / "book.epub", **{"OPS/package.opf": package}))
    assert [row.id for row in rows] == ["book-001 unlisted", "book-002 gone.xhtml", "book-003 ch 2.xhtml"]
    assert ["not in the book" in row.fault for row in rows] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<h1>Chapter 1<br/>The Start</h1>", "Chapter 1\nThe Start"),
        ("<table><tr><th>Alpha</th><td>Beta</td></tr></table><pre>Gamma</pre>Delta", "Alpha\nBeta\nGamma\nDelta"),
        ("One<aside>Two</aside><figure><figcaption>Three</figcaption></figure>Four", "One\nTwo\nThree\nFour"),
        ("<p><![CDATA[Fish & <chips>]]></p>", "Fish & <chips>"),
        ("<h4>One</h4><h5>Two</h5>Three<h2/>Four", "One\n\nTwo\n\nThree\nFour"),
        ("<p>night<sup><a href='#n1'>1</a></sup>. E = mc<sup>2</sup></p>", "night. E = mc²"),
        ("<p>night<a href='#n1'><sup>1</sup></a>. <a href='#e'>E = mc<sup>2</sup></a></p>", "night. E = mc²"),
        ("<p>night<sup>1</sup> and day.<sup>12</sup> (x+y)<sup>3</sup></p>", "night and day. (x+y)³"),
        ("<p>10<sup>-3</sup> m<sup><i>2</i></sup>, x<sup>n</sup></p>", "10⁻³ m², xⁿ"),
        ("<p>H<sub>2</sub>O, x<sub>i</sub>, the 1<sup>st</sup></p>", "H₂O, x i, the 1st"),
        ("<p>night<a href='#n1' epub:type='noteref'>1</a>. <sup><a id='x'/>th</sup></p>", "night. th"),
        ("<p>a<span role='doc-noteref'><span>1</span>2</span>b<sup>3<a href='#'>4</a><br/></sup></p>", "ab"),
    ],
)
def test_what_of_a_chapter_is_read_aloud(tmp_path: Path, body: str, text: str) -> None:
    found = list(chapters(book(tmp_path / "book.epub", **{"OPS/text/ch1.xhtml": f"<html><body>{body}</body></html>"})))
    assert found[0].text == text
    if body.startswith("<h1>"):
        assert found[0].title == "Chapter 1 The Start"


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-16", "utf-8-sig"])
def test_a_chapter_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    text = (
        f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?><html><body><p>Caf\u00e9.</p></body></html>"
    )
    found = list(chapters(book(tmp_path / "book.epub", **{"OPS/text/ch1.xhtml": text.encode(encoding)})))
    assert found[0].text == "Caf\u00e9."


def test_an_encoding_that_nobody_knows_is_told(tmp_path: Path) -> None:
    text = "<?xml version='1.0' encoding='x-mine'?><html><body><p>One.</p></body></html>"
    with pytest.raises(MotetError, match="x-mine"):
        rows_of(book(tmp_path / "book.epub", **{"OPS/text/ch1.xhtml": text}))


@pytest.mark.parametrize("damage", ["no zip", "no container", "no package", "huge"])
def test_a_broken_book_is_refused(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "book.epub"
    if damage == "no zip":
        path.write_bytes(b"PK\x03\x04 but no more")
    elif damage == "huge":
        monkeypatch.setattr("cluster.bulk.epub.MOST_DOCUMENT_BYTES", 300)
        book(path)
    else:
        gone = "META-INF/container.xml" if damage == "no container" else "OPS/package.opf"
        whole = zipfile.ZipFile(io.BytesIO(book(path).read_bytes()))
        with zipfile.ZipFile(path, "w") as archive:
            for name in whole.namelist():
                if name != gone:
                    archive.writestr(name, whole.read(name))
    with pytest.raises(MotetError):
        rows_of(path)


# --- Batches


def items(*sizes: int) -> list[WorkItem]:
    return [WorkItem(f"{number:064x}", size, "x" * size) for number, size in enumerate(sizes)]


def settings(**values: int) -> BulkSettings:
    return BulkSettings.model_validate({"batch_rows": 3, "batch_characters": 100, "sort_rows": 100} | values)


def test_batches_hold_alike_lengths_within_their_limits() -> None:
    batches = list(cut_into_batches(items(5, 90, 60, 30, 4, 6, 3, 150), settings()))
    assert [[item.size for item in batch.items] for batch in batches] == [[150], [90], [60, 30, 6], [5, 4, 3]]


def test_the_first_batches_are_small() -> None:
    wanted = settings(first_batch_rows=4, batch_rows=16, batch_characters=16_000)
    batches = list(cut_into_batches(items(*range(100, 164)), wanted))
    assert [len(batch.items) for batch in batches] == [4, 4, 8, 8, 16, 16, 8]
    assert [len(batch.items) for batch in cut_into_batches(items(*range(1000, 1008)), wanted)][:3] == [3, 3, 2]


def test_sorting_stays_within_its_stretch() -> None:
    batches = list(cut_into_batches(items(1, 2, 30, 40), settings(sort_rows=2)))
    assert [[item.size for item in batch.items] for batch in batches] == [[2, 1], [40, 30]]


def test_equal_content_is_made_once() -> None:
    twice = [*items(5), *items(5)]
    assert [len(batch.items) for batch in cut_into_batches(twice, settings())] == [1]


def test_a_batch_is_named_by_its_content_and_travels_as_json() -> None:
    one, same, other = Batch(tuple(items(1, 2))), Batch(tuple(items(1, 2))), Batch(tuple(items(1, 2, 3)))
    assert one.name == same.name != other.name
    assert from_json(to_json(one.items)) == list(one.items)


def test_the_address_of_a_row_is_its_content_and_the_settings() -> None:
    def key(text: str = "Hello.", row_voice: str | None = None, **wishes: object) -> str:
        job, _ = job_of(AppConfig(), "speech", "hibari", BulkOptions(**wishes), None)  # type: ignore[arg-type]
        return item_of(Row("any", text, row_voice), job).key

    assert key() == key()
    different = {
        key(),
        key("Other."),
        key(row_voice="heart"),
        key(voice="heart"),
        key(speed=1.5),
        key(seed=1),
        key(form="mp3"),
    }
    assert len(different) == 7
