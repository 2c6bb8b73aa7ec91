"""Tokens to vectors: the table, its scale, positions and dropout."""

from __future__ import annotations

import pytest
import torch

from nmt.layers.embedding import TokenEmbedding, new_embedding


def test_a_new_table_has_variance_one_over_its_width() -> None:
    torch.manual_seed(1)
    table = new_embedding(4000, 64)
    assert table.weight.shape == (4000, 64)
    assert table.weight.var().item() == pytest.approx(1 / 64, rel=0.02)
    assert table.weight.mean().item() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(3,), (2, 5)])
def test_vectors_are_scaled_rows_of_the_table_with_positions_added(shape: tuple[int, ...]) -> None:
    table = new_embedding(9, 4)
    tokens = torch.randint(9, shape)
    plain, scaled = TokenEmbedding(table), TokenEmbedding(table, scale=3.0)
    torch.testing.assert_close(plain(tokens), table.weight[tokens], rtol=0, atol=0)
    torch.testing.assert_close(scaled(tokens), 3.0 * table.weight[tokens])
    positions = torch.randn(shape[-1], 4)
    torch.testing.assert_close(scaled(tokens, positions), 3.0 * table.weight[tokens] + positions)


def test_dropout_comes_after_positions_and_in_training_only() -> None:
    torch.manual_seed(1)
    embedding = TokenEmbedding(new_embedding(9, 64), dropout=0.5)
    tokens, positions = torch.zeros(1, 8, dtype=torch.long), torch.full((8, 64), 100.0)
    dropped = embedding.train()(tokens, positions)
    assert 0.3 < (dropped == 0).float().mean() < 0.7
    assert (dropped[dropped != 0] > 150).all()
    assert (embedding.eval()(tokens, positions) != 0).all()


def test_word_dropout_takes_whole_tokens_but_not_their_positions() -> None:
    torch.manual_seed(1)
    table = new_embedding(9, 4)
    embedding = TokenEmbedding(table, word_dropout=0.25).train()
    tokens = torch.randint(9, (50, 40))
    dropped = embedding(tokens)
    gone = (dropped == 0).all(dim=-1)
    assert 0.2 < gone.float().mean() < 0.3
    torch.testing.assert_close(dropped[~gone], table.weight[tokens][~gone] / 0.75)
    positions = torch.full((40, 4), 7.0)
    torch.manual_seed(1)
    left = embedding(torch.zeros(50, 40, dtype=torch.long), positions)
    assert ((left == 7.0).all(dim=-1)).any()
    torch.testing.assert_close(embedding.eval()(tokens), table.weight[tokens])


def test_two_may_share_a_table() -> None:
    table = new_embedding(9, 4)
    first, second = TokenEmbedding(table), TokenEmbedding(table, scale=2.0)
    (first(torch.tensor([1])).sum() + second(torch.tensor([1])).sum()).backward()
    assert table.weight.grad is not None
    assert table.weight.grad[1].tolist() == [3.0] * 4
    assert first.width == second.width == 4
