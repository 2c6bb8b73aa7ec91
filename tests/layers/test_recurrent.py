"""The recurrent cells against torch's nn.GRUCell and nn.LSTMCell, how they start, what training drops of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nmt.layers.dropout import Dropout
from nmt.layers.recurrent import GruCell, LstmCell, initialize_torch_rnn, recurrent_weights_dropped

INPUT, WIDTH, ROWS = 5, 4, 3


def share(ours: GruCell | LstmCell, theirs: nn.GRUCell | nn.LSTMCell) -> None:
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter))
        theirs.weight_ih.copy_(ours.input.weight)
        theirs.weight_hh.copy_(ours.hidden.weight)
        theirs.bias_ih.copy_(ours.input.bias)
        theirs.bias_hh.copy_(ours.hidden.bias)


def compare(
    ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], ours_in: list[Tensor], theirs_in: list[Tensor]
) -> None:
    """The values, and the gradients of a random sum of them."""
    torch.testing.assert_close(ours, theirs)
    directions = [torch.randn_like(value) for value in ours]
    totals = [sum((value * way).sum() for value, way in zip(side, directions, strict=True)) for side in (ours, theirs)]
    assert isinstance(totals[0], Tensor)
    assert isinstance(totals[1], Tensor)
    torch.testing.assert_close(torch.autograd.grad(totals[0], ours_in), torch.autograd.grad(totals[1], theirs_in))


def test_gru_cell_is_torchs() -> None:
    torch.manual_seed(1)
    ours, theirs = GruCell(INPUT, WIDTH).double(), nn.GRUCell(INPUT, WIDTH).double()
    share(ours, theirs)
    x, h = (torch.randn(ROWS, width).double().requires_grad_() for width in (INPUT, WIDTH))
    mine = ours(ours.project(x), h)
    parameters = [ours.input.weight, ours.hidden.weight, ours.input.bias, ours.hidden.bias]
    torchs = [theirs.weight_ih, theirs.weight_hh, theirs.bias_ih, theirs.bias_hh]
    compare((mine,), (theirs(x, h),), [x, h, *parameters], [x, h, *torchs])


def test_lstm_cell_is_torchs() -> None:
    torch.manual_seed(1)
    ours, theirs = LstmCell(INPUT, WIDTH).double(), nn.LSTMCell(INPUT, WIDTH).double()
    share(ours, theirs)
    x, h, c = (torch.randn(ROWS, width).double().requires_grad_() for width in (INPUT, WIDTH, WIDTH))
    mine = ours(ours.project(x), h, c)
    parameters = [ours.input.weight, ours.hidden.weight, ours.input.bias, ours.hidden.bias]
    torchs = [theirs.weight_ih, theirs.weight_hh, theirs.bias_ih, theirs.bias_hh]
    compare(mine, theirs(x, (h, c)), [x, h, c, *parameters], [x, h, c, *torchs])


def test_a_sentence_projected_at_once_is_its_words_projected_one_by_one() -> None:
    for cell in (GruCell(INPUT, WIDTH).double(), LstmCell(INPUT, WIDTH).double()):
        sentence = torch.randn(ROWS, 7, INPUT).double()
        whole = cell.project(sentence)
        for position in range(7):
            torch.testing.assert_close(whole[:, position], cell.project(sentence[:, position]))


def assert_started(input_weight: Tensor, hidden_weight: Tensor, biases: list[Tensor], *, gates: int) -> None:
    """Orthogonal gates for the state, Xavier's bound for the input, forget gates open, no other bias."""
    for gate in hidden_weight.chunk(gates):
        torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), rtol=0, atol=1e-5)
    for gate in input_weight.chunk(gates):
        bound = (6.0 / sum(gate.shape)) ** 0.5
        assert 0.9 * bound < gate.abs().max() <= bound
    total = torch.stack(biases).sum(0)
    expected = torch.zeros_like(total)
    if gates == 4:
        expected[len(total) // 4 : len(total) // 2] = 1.0
    torch.testing.assert_close(total, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "gates"), [(GruCell, 3), (LstmCell, 4)])
def test_cells_start_well(kind: type[GruCell | LstmCell], gates: int) -> None:
    cell = kind(24, 16)
    assert_started(cell.input.weight, cell.hidden.weight, [cell.input.bias, cell.hidden.bias], gates=gates)


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4)])
def test_torchs_stacks_start_as_well(kind: type[nn.GRU | nn.LSTM], gates: int) -> None:
    rnn = kind(24, 16, num_layers=2, bidirectional=True)
    initialize_torch_rnn(rnn)
    parameters = dict(rnn.named_parameters())
    for end in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert_started(
            parameters[f"weight_ih_{end}"],
            parameters[f"weight_hh_{end}"],
            [parameters[f"bias_ih_{end}"], parameters[f"bias_hh_{end}"]],
            gates=gates,
        )


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_entries_of_torchs_recurrent_matrices_are_dropped_once_a_sentence(kind: type[nn.GRU] | type[nn.LSTM]) -> None:
    """Against a stack that has the entries which were left; gradients are those of what was left, and no more."""
    torch.manual_seed(1)
    rnn = kind(INPUT, WIDTH, num_layers=2, bidirectional=True, batch_first=True).double()
    other = copy.deepcopy(rnn)
    x, dropout = torch.randn(ROWS, 6, INPUT).double(), Dropout(0.5).train()
    whole, _ = rnn(x)
    torch.manual_seed(2)
    kept = {}
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "weight_hh" in name:
                kept[name] = dropout(torch.ones_like(weight))
                weight.mul_(kept[name])
    assert len(kept) == 4
    torch.manual_seed(2)
    with recurrent_weights_dropped(rnn, dropout):
        found, _ = rnn(x)
    expected, _ = other(x)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, whole)
    for one in (found, expected):
        (one**2).sum().backward()
    for (name, ours), theirs in zip(rnn.named_parameters(), other.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad * kept[name] if name in kept else theirs.grad)
    torch.testing.assert_close(rnn(x)[0], whole)
    with recurrent_weights_dropped(rnn, dropout.eval()):
        torch.testing.assert_close(rnn(x)[0], whole)
