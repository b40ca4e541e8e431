import torch

from alibi_lm.benchmark.peers import PEERS
from alibi_lm.model.config import ModelConfig
from alibi_lm.positions import SCHEMES

SIZES = ModelConfig(n_layers=2, n_heads=2, d_model=32, d_ff=128)


def test_choices() -> None:
    assert all(set(library.positions) <= set(SCHEMES.settings) for library in PEERS.values())


def test_peers_predict_and_do_not_see_the_future() -> None:
    x = torch.randint(50, (2, 40))
    y = torch.randint(50, (2, 40))
    changed = x.clone()
    changed[:, 25:] = (changed[:, 25:] + 1) % 50
    for library in PEERS.values():
        for position in library.positions:
            model = library.build(SIZES, position, 50, 40)
            assert model.backend
            model.eval()
            with torch.no_grad():
                losses, after = model(x, y), model(changed, y)
            assert losses.shape == (2, 40)
            torch.testing.assert_close(losses[:, :25], after[:, :25], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(losses[:, 25:], after[:, 25:])
