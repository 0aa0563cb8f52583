# SPDX-License-Identifier: Apache-2.0
"""Which calls of `generate` share a traced function, and which must not."""

import numpy as np
import pytest
import tensorflow as tf
from small_seq2seq import count_traces, make_model, random_words

from keras_seq.decoding import AllowedTokens, GreedySampler, Processor, RandomSampler, Sampler
from keras_seq.models.function_cache import configuration_key


@pytest.fixture(scope="module")
def model():
    return make_model()


class TestTraces:
    def test_nothing_is_traced_again_for_other_sizes_lengths_limits_and_seeds(self, monkeypatch):
        model = make_model()
        traces = count_traces(model, monkeypatch)
        rng = np.random.default_rng(0)
        for i in range(100):
            words = random_words(int(rng.integers(1, 9)), seed=i)
            model.generate(words, max_length=int(rng.integers(1, 9)), batch_size=int(rng.integers(1, 4)), seed=i)
        assert len(traces) == 2  # from a single string, and from the ids of several
        model.generate(random_words(3), 3, return_dict=True)
        model.generate(random_words(5), 4, return_dict=True, sampler=GreedySampler())
        assert len(traces) == 3

    def test_samplers_of_the_same_configuration_share_a_trace(self, monkeypatch):
        model = make_model()
        traces = count_traces(model, monkeypatch)
        for sampler in ("random", RandomSampler(), RandomSampler(seed=3), RandomSampler(1.0, seed=4)):
            model.generate(["ab", "c"], 3, sampler=sampler)
        assert len(traces) == 1

    def test_a_changed_attribute_of_a_sampler_counts(self, model):
        words, sampler = random_words(30), RandomSampler(temperature=3.0)
        hot = model.generate(words, sampler=sampler, seed=1)
        sampler.temperature = 0.01
        cold = model.generate(words, sampler=sampler, seed=1)
        assert hot != cold
        assert cold == model.generate(words, sampler=RandomSampler(temperature=0.01), seed=1)

    def test_samplers_that_do_not_describe_their_arguments_are_not_mistaken_for_each_other(self, model):
        class NthBest(Sampler):
            def __init__(self, n):
                self.n = n

            def choose(self, log_probabilities, state, step):
                return tf.math.top_k(log_probabilities, self.n).indices[:, -1]

        words = random_words(5)
        assert model.generate(words, 3, sampler=NthBest(1)) == model.generate(words, 3, sampler="greedy")
        assert model.generate(words, 3, sampler=NthBest(2)) != model.generate(words, 3, sampler="greedy")

    def test_functions_of_one_name_are_not_mistaken_for_each_other(self, model):
        outputs = []
        for token in (5, 6):

            def allow(log_probabilities, tokens, step, token=token):
                return tf.where(tf.range(12)[None] == token, log_probabilities, -np.inf)

            outputs.append(model.generate(["ab"], 3, processors=[allow], return_dict=True)["token_ids"].tolist())
        assert outputs == [[[5, 5, 5]], [[6, 6, 6]]]

    @pytest.mark.parametrize("base", [Sampler, RandomSampler, GreedySampler])
    def test_arguments_count_without_a_configuration(self, model, base):
        class Constant(base):
            def __init__(self, token):
                super().__init__()
                self.token = token

            def choose(self, log_probabilities, state, step):
                return tf.fill([tf.shape(log_probabilities)[0]], self.token)

        samplers = [Constant(5), Constant(6)]
        assert len({configuration_key(Constant(5), ignored=("seed", "seed_generator")) for _ in range(2)}) == 1
        results = [model.generate(["ab"], 2, sampler=sampler, return_dict=True)["token_ids"] for sampler in samplers]
        samplers[0].token = 7
        results.append(model.generate(["ab"], 2, sampler=samplers[0], return_dict=True)["token_ids"])
        assert [result.tolist() for result in results] == [[[5, 5]], [[6, 6]], [[7, 7]]]

    def test_arguments_of_a_processor_count_without_a_configuration(self, model):
        class Only(Processor):
            def __init__(self, token):
                self.token = token

            def __call__(self, log_probabilities, tokens, step):
                return tf.where(tf.range(12)[None] == self.token, log_probabilities, -np.inf)

        results = [model.generate(["ab"], 2, processors=[Only(i)], return_dict=True)["token_ids"] for i in (5, 6)]
        assert [result.tolist() for result in results] == [[[5, 5]], [[6, 6]]]

    def test_a_function_without_source_code(self, model):
        # As in an interactive session: Keras cannot serialize it, which only a file needs.
        function = eval("lambda tokens, step: tf.fill([tf.shape(tokens)[0], 12], True)", {"tf": tf})
        assert model.generate(["ab"], 2, processors=[AllowedTokens(function)]) == model.generate(["ab"], 2)

    def test_keys_of_configurations(self):
        class Processor:
            def __init__(self, **config):
                self.config = config
                self.function = config.get("function")

            def get_config(self):
                return {**self.config, "function": "name"} if "function" in self.config else self.config

        def key(**config):
            return configuration_key([Processor(**config)])

        def function():
            return 1

        def other():
            return 1

        array = np.zeros(5000)
        changed = array.copy()
        changed[2500] = 1  # where NumPy's representation has three dots
        for config in ({"a": 1}, {"a": [1, {"b": (2, None)}]}, {"a": array}, {"function": function}):
            assert key(**config) == key(**config)
            assert hash(key(**config)) == hash(key(**config))
        different = [{"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": array}, {"a": changed}]
        different += [{"function": function}, {"function": other}, {"a": {1}}, {"a": {1}}]
        assert len({key(**config) for config in different}) == len(different)

    def test_few_functions_are_kept(self, model):
        for temperature in range(1, 20):
            model._functions.get(temperature, lambda: None)
        assert len(model._functions) == 16
