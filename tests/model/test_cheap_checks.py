"""Wrong arguments are refused before a model's weights are read, which takes seconds: here one is missing."""

import psycopg
import pytest

import pg_llm

CALLS = {
    "llm_generate('a', 1)": 'has no weights for 1 of its parameters: "wpe.weight"',
    "llm_generate('a', eos => 60000)": "eos is 60000",
    "llm_generate('a', stop => ARRAY[''])": "stop contains an empty text",
    "llm_generate('a', 5000)": "do not fit the 128 positions",
    "llm_generate(repeat('a ', 200))": "are more than the 128 positions",
    "llm_generate(ARRAY[60000])": "token 1 of the prompt is 60000",
    "llm_generate_stream('a', eos => -7)": "eos is -7",
    "llm_generate_batch(ARRAY['a'], 5000)": "do not fit the 128 positions",
    "llm_next_tokens('a', 0)": "k is 0",
    "llm_next_tokens(ARRAY[-1])": "token 1 of the prompt is -1",
    "llm_beam_search('a', 2, 3, eos => 60000)": "eos is 60000",
    "llm_logits(ARRAY[1,2], positions => ARRAY[0])": "positions must be one integer",
    "llm_logits(array_fill(1, ARRAY[129]))": "129 tokens are more than the 128 positions",
    "llm_loss('{m}', ARRAY[1,2], ARRAY[2])": "targets are (1,1)",
    "llm_trace('{m}', ARRAY[1,2], ARRAY[2])": "targets are (1,1)",
    "llm_eval('{m}', 'nosuch', '{{\"tokens\": [1]}}')": 'has no node "nosuch"',
    "llm_eval('{m}', 'logits', '{{\"tokens\": \"x\"}}')": "a number was expected",
    "llm_eval('{m}', 'logits', NULL, ARRAY['embd'])": "1 names are given, but 0 tensors",
    "llm_text_loss('{m}', 'Tom met', 500)": "stride is 500",
    "llm_dataset_loss('{m}', 'cheap', 0)": "max_rows is 0",
    "llm_explain('{m}', repeat('a ', 200))": "are more than the 128 positions",
}


@pytest.fixture(scope="module")
def without_a_weight(database):
    with pg_llm.connect(database) as conn:
        conn.execute("SELECT llm_create_model('cheap', 1, 2, 4, 128, 50257, tokenizer => 'gpt2')")
        conn.execute("SELECT llm_init_model('cheap')")
        conn.execute("DELETE FROM llm_param WHERE model = 'cheap' AND name = 'wpe.weight'")
        conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('cheap', '{1}', '{2}')")
    return "cheap"


@pytest.mark.parametrize("call", CALLS)
def test_wrong_arguments_are_refused_before_the_weights_are_read(conn, without_a_weight, call):
    conn.execute("SET pg_llm.default_model = 'cheap'")
    with pytest.raises(psycopg.Error) as refusal:
        conn.execute("SELECT " + call.format(m=without_a_weight))
    assert CALLS[call] in str(refusal.value)
