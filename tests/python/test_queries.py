"""Search and ask: results, streaming, cancelling, timeouts."""

import threading

import msadb
import pytest

TEXTS = ["The spare key is under the blue flowerpot.", "The wifi password is on the router.",
         "The bicycle is in the shed.", "Bread is bought on Fridays."]
QUESTION = "Where is the spare key?"


@pytest.fixture
def filled(notes):
    notes.insert_many([
        {"text": text, "key": str(i), "metadata": {"i": i}, "source": "list"}
        for i, text in enumerate(TEXTS)
    ])
    return notes


def test_search_ranks_documents(filled):
    hits = filled.search(QUESTION)
    assert sorted(hit.text for hit in hits) == sorted(TEXTS)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = filled.get(hits[0].id)
    assert (hits[0].text, hits[0].key, hits[0].metadata, hits[0].source) == (
        best.text, best.key, best.metadata, "list")
    assert [hit.id for hit in filled.search(QUESTION, top_k=2)] == [hit.id for hit in hits[:2]]
    assert [hit.key for hit in filled.search(QUESTION, where={"i": 3})] == ["3"]
    assert {hit.text for hit in filled.search(QUESTION, include_text=False)} == {""}


def test_an_answer_tells_what_it_rests_on(filled):
    answer = filled.ask(QUESTION, answer_tokens_max=16, trace=True)
    assert str(answer) == answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.prompt_tokens > 0 and answer.generated_tokens > 0
    documents = {document.id: document for document in filled}
    for citation in answer.citations:
        assert citation.text in documents[citation.id].text
        assert citation.source == "list"
    assert answer.trace
    for layer in answer.trace[0].layers:
        assert {routed.number for routed in layer.documents} <= set(documents)
    assert filled.ask(QUESTION, answer_tokens_max=16).trace == ()


def test_greedy_answers_repeat_and_seeds_repeat_samples(filled):
    def ask(**options):
        return filled.ask(QUESTION, answer_tokens_max=12, **options).text

    assert ask() == ask()
    assert ask(temperature=1.5, seed=7) == ask(temperature=1.5, seed=7)
    assert len({ask(temperature=1.5, seed=seed) for seed in range(8)}) > 1


def test_a_filter_hides_documents_from_the_model(filled):
    answer = filled.ask(QUESTION, where={"i": 2}, trace=True, answer_tokens_max=8)
    visible = filled.get(key="2").id
    for layer in answer.trace[0].layers:
        assert {routed.number for routed in layer.documents} <= {visible}


def test_an_empty_memory_answers_without_citations(notes):
    assert notes.ask(QUESTION, answer_tokens_max=8).citations == ()
    assert notes.search(QUESTION) == []


def test_a_stream_gives_the_answer_in_pieces(filled):
    whole = filled.ask(QUESTION, answer_tokens_max=32)
    with filled.ask(QUESTION, answer_tokens_max=32, stream=True) as pieces:
        assert "".join(pieces) == whole.text
        assert pieces.answer == whole
        assert list(pieces) == []  # it stays at its end
    # Without taking pieces the answer is there all the same.
    assert filled.ask(QUESTION, answer_tokens_max=32, stream=True).answer == whole


def test_a_stream_that_is_left_ends(filled):
    with filled.ask(QUESTION, answer_tokens_max=2048, stream=True) as pieces:
        pass
    with pytest.raises(msadb.Unavailable):
        next(pieces)
    assert filled.count() == len(TEXTS)


def test_a_stream_can_be_cancelled(filled):
    pieces = filled.ask(QUESTION, stream=True, answer_tokens_max=2048)
    pieces.cancel()
    with pytest.raises(msadb.Cancelled):
        for _ in pieces:
            pass
    with pytest.raises(msadb.Cancelled):
        _ = pieces.answer


def test_a_token_cancels_from_another_thread(filled):
    token = msadb.CancelToken()
    assert not token.cancelled
    with filled.ask(QUESTION, stream=True, cancel=token, answer_tokens_max=2048) as pieces:
        thread = threading.Thread(target=token.cancel)
        thread.start()
        thread.join()
        assert token.cancelled
        with pytest.raises(msadb.Cancelled):
            list(pieces)
    with pytest.raises(msadb.Cancelled):
        filled.ask(QUESTION, cancel=token)


def test_a_timeout_that_has_passed(filled):
    with pytest.raises(msadb.DeadlineExceeded) as raised:
        filled.ask(QUESTION, timeout=0)
    assert isinstance(raised.value, TimeoutError)


def test_the_memory_can_be_used_while_an_answer_streams(filled):
    with filled.ask(QUESTION, stream=True, answer_tokens_max=64) as pieces:
        seen = 0
        for _ in pieces:
            seen += 1
            assert filled.count() == len(TEXTS)
    filled.insert("afterwards")
