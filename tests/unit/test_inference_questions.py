"""Files of questions: what is read, and that every mistake is named by its line."""

import json

import pytest

from commbert.errors import DataError
from commbert.inference.questions import Question, QuestionColumns, read_questions

HEADER = "question,A,B,C,D,answer,domain\n"


def read(tmp_path, text, name="q.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_questions(path, **options)


def refusal(tmp_path, text, name="q.csv", **options):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_rows_by_hand(tmp_path):
    text = HEADER + 'what ____?,null,NA,nan,none,B,phy\n"two\nlines, ""quoted""",x,y,,,2,mac\n\nlast,x,y,z,,z,\n'
    assert read(tmp_path, text).questions == [
        Question("what ____?", ("null", "NA", "nan", "none"), 1, "phy", 2),
        Question('two\nlines, "quoted"', ("x", "y"), 1, "mac", 3),
        Question("last", ("x", "y", "z"), 2, "", 6),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "question,option_1,option_2,option_3,answer",
        "Question,Option 1,Option 2,Option 3,Answer",
        "question,choice1,choice2,choice3,correct",
        "question,optionA,optionB,optionC,label",
        "question,a,b,c,answer",
    ],
)
def test_usual_names_of_columns_are_known(tmp_path, header):
    [found] = read(tmp_path, f"{header}\nq,x,y,z,3\n").questions
    assert (found.options, found.answer) == (("x", "y", "z"), 2)


def test_options_stand_in_the_order_of_their_numbers(tmp_path):
    [found] = read(tmp_path, "option_10,option_2,question,option_1\nten,two,q,one\n").questions
    assert found.options == ("one", "two", "ten")


def test_columns_may_be_named(tmp_path):
    columns = QuestionColumns("frage", ("eins", "zwei"), "lösung", "fach")
    text = "eins,zwei,frage,lösung,fach,answer\nx,y,q,y,phy,nonsense\n"
    assert read(tmp_path, text, columns=columns).questions == [Question("q", ("x", "y"), 1, "phy", 2)]


def test_tsv_and_json_lines_are_read_alike(tmp_path):
    tsv = read(tmp_path, "question\tA\tB\tanswer\nq, r\tx\ty\tA\n", "q.tsv").questions
    rows = [
        {"question": "q, r", "options": ["x", "y"], "answer": "A"},
        {"question": "2", "A": "z", "B": "NA", "answer": 2},
    ]
    text = "\ufeff" + "\n\n".join(map(json.dumps, rows)).replace('"z"', "1.50")
    found = read(tmp_path, text, "q.jsonl").questions
    assert found[0].options == tsv[0].options == ("x", "y")
    assert found[1] == Question("2", ("1.50", "NA"), 1, "", 3)


def test_a_list_of_options_may_stand_in_a_cell(tmp_path):
    [found] = read(tmp_path, 'question,options,answer\nq,"[""x"", ""y, z""]",B\n').questions
    assert (found.options, found.answer) == (("x", "y, z"), 1)


def test_an_answer_may_repeat_the_name_of_its_column(tmp_path):
    text = "question,option 1,option 2,answer\nq,x,y,option 2: y\n"
    assert read(tmp_path, text).questions[0].answer == 1


@pytest.mark.parametrize(("answer", "place"), [("A", 0), ("b", 1), ("1", 0), ("2", 1), ("red", 0), ("blue", 1)])
def test_an_answer_is_a_letter_a_number_or_a_text(tmp_path, answer, place):
    assert read(tmp_path, f"question,A,B,answer\nq,red,blue,{answer}\n").questions[0].answer == place


def test_an_answer_that_can_be_read_in_two_ways_is_refused_until_it_is_said_which(tmp_path):
    text = "question,A,B,C,answer\nq,2,3,1,1\n"
    assert "line 2: the answer '1' is both the text and the number of different options" in refusal(tmp_path, text)
    assert read(tmp_path, text, columns=QuestionColumns(answer_as="number")).questions[0].answer == 0
    assert read(tmp_path, text, columns=QuestionColumns(answer_as="text")).questions[0].answer == 2


def test_an_answer_that_is_the_same_in_two_ways_is_read(tmp_path):
    assert read(tmp_path, "question,A,B,answer\nq,1,2,2\n").questions[0].answer == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("q,x,y,z,w,E,p", "line 3: expected an answer that is an option (A to D"),
        ("q,x,y,z,w,0,p", "expected an answer that is an option"),
        ("q,x,y,z,w,5,p", "expected an answer that is an option"),
        ("q,x,y,z,w,,p", "expected an answer that is an option"),
        ("q,x,y,z,w,²,p", "expected an answer that is an option"),
        ("q,x,,z,w,A,p", "line 3: expected text in every option, found none in option 2"),
        ("q,x,y,x,w,A,p", "line 3: expected different options, found 'x' as options 1 and 3"),
        ("q,x,,,,A,p", "line 3: expected at least two options, found 1"),
        (" ,x,y,,,A,p", "line 3: expected a question, found an empty text"),
        ("q,x,y,z,w,A", "line 3: expected 7 cells as in the header, found 6"),
        ('q,"x,y,z,w,A,p', "line 3: a quote that opens in this row is never closed"),
    ],
)
def test_a_mistake_is_named_by_its_line(tmp_path, row, told):
    assert told in refusal(tmp_path, f"{HEADER}good,x,y,,,A,p\n{row}\n")


def test_wrong_rows_can_be_passed_over_and_are_told_by_line(tmp_path):
    text = f"{HEADER}q,x,x,,,A,p\ngood,x,y,,,A,p\nq,x,y,,,Z,p\n"
    found = read(tmp_path, text, skips_mistakes=True)
    assert [q.line for q in found.questions] == [3]
    assert list(found.skipped) == [2, 4]
    assert found.skipped[2].startswith("expected different options")


def test_rows_that_cannot_be_told_apart_are_never_passed_over(tmp_path):
    assert "never closed" in refusal(tmp_path, f'{HEADER}q,x,y,,,A,p\nq,"x\n', skips_mistakes=True)


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (b"question,A,B\n\xff,x,y\n", "q.csv", "line 2: expected UTF-8"),
        ("question,A,A\nq,x,y\n", "q.csv", "line 1: expected each column once"),
        ("q,A,B\nq,x,y\n", "q.csv", "expected a column question, found 'q', 'A', 'B'"),
        ("question,B,C\nq,x,y\n", "q.csv", "expected columns option_1"),
        ("question,A,B\n", "q.csv", "expected at least one question, found none"),
        ("", "q.csv", "expected a header, found an empty file"),
        ("question,A,B\nq,x,y\n", "q.xlsx", "ends in .csv, .tsv, .jsonl"),
        ('{"question": "q", "options": ["x", ["y"]]}', "q.jsonl", "line 1: expected a list of texts in 'options'"),
        ('{"question": "q", "options": "x"}', "q.jsonl", "expected a list of texts"),
        ('{"question": ["q"], "A": "x", "B": "y"}', "q.jsonl", "expected text in 'question', found a list"),
        ('{"question": "q", "A": "x", "B": "\\ud800"}', "q.jsonl", "line 1: expected text, found half of a character"),
        ('{"question": "q"', "q.jsonl", "line 1: expected a JSON object"),
    ],
)
def test_what_is_no_file_of_questions_is_refused(tmp_path, text, name, told):
    assert told in refusal(tmp_path, text, name)


def test_a_column_that_is_named_and_absent_is_refused(tmp_path):
    text = "question,A,B\nq,x,y\n"
    assert "expected a column 'f'" in refusal(tmp_path, text, columns=QuestionColumns(question="f"))
    assert "'one'" in refusal(tmp_path, text, columns=QuestionColumns(options=("one", "B")))


@pytest.mark.parametrize(("name", "text"), [("q.csv", "question,A,B\nq,{},y\n"), ("q.jsonl", '{{"question": "{}"}}\n')])
def test_a_row_of_more_than_a_mebibyte_is_refused_by_its_line(tmp_path, name, text):
    message = refusal(tmp_path, text.format("x" * 2**20), name)
    assert "expected a row of at most 1,048,576 bytes" in message
    assert f"line {2 if name == 'q.csv' else 1}" in message
