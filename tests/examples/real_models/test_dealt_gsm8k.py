import json
from pathlib import Path

import pytest

from examples.real_models.dealt_gsm8k import DealOptions, deal, main
from training.collect.questions import TableError


def test_every_sentence_goes_to_one_agent_in_order() -> None:
    told = ["Mr. Lee has 3.5 kg.", 'He says "Go!"', "$5 is paid.", "It is 4 p.m. now.", "Go on."]
    dealt = deal({"question": f"{' '.join(told)} How many?", "answer": "x\n#### 1,200"})
    assert dealt is not None
    assert dealt["question"] == "How many?"
    assert dealt["reference"] == "1200"
    assert " ".join(dealt["contexts"].values()) == " ".join(told)
    assert all(dealt["contexts"].values())


def test_too_little_to_deal() -> None:
    assert deal({"question": "One. Two. How many?", "answer": "#### 2"}) is None


@pytest.mark.parametrize("row", ['{"question": "A?"}', "no JSON"])
def test_a_file_of_another_kind(row: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(row)
    with pytest.raises(TableError, match=r"data\.jsonl:1: "):
        main(DealOptions(tmp_path / "data.jsonl", tmp_path / "out.jsonl"))


def test_a_file(tmp_path: Path) -> None:
    rows = [
        {"question": "A. B. C. D?", "answer": "#### 1"},
        {"question": "D?", "answer": "#### 1"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(DealOptions(tmp_path / "data.jsonl", tmp_path / "out.jsonl"))
    [written] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert written["contexts"] == {"agent-1": "A.", "agent-2": "B.", "agent-3": "C."}
