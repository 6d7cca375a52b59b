import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmrl.config import PPOConfig, ValueHead
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.ppo.checkpoint import FORMAT, Best, DamagedError, Progress, checkpoints, load_checkpoint, save_checkpoint
from llmrl.ppo.kl_control import KLController
from llmrl.ppo.running import RunningStatistics
from llmrl.ppo.update import SkippedUpdates, make_optimizer

SETTINGS = {"ppo": {"lr": 1e-3}, "tracker": {"kind": "none"}}


def progress() -> Progress:
    return Progress(generators={"sampling": torch.Generator().manual_seed(5)}, kl_control=KLController(0.1, 5.0))


def stepped(tiny: LanguageModel) -> tuple[Policy, torch.optim.Optimizer, Progress]:
    policy = Policy(tiny)
    optimizer = make_optimizer(policy, PPOConfig(lr=1e-3))
    for parameter in policy.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = progress()
    state.step, state.episodes = 3, 96
    return policy, optimizer, state


def fresh(tiny: LanguageModel) -> tuple[Policy, torch.optim.Optimizer, Progress]:
    other = Policy(tiny.frozen_copy())
    other.model.requires_grad_(True)
    return other, make_optimizer(other, PPOConfig(lr=1e-3)), progress()


def test_everything_comes_back(tiny: LanguageModel, tmp_path: Path) -> None:
    policy, optimizer, state = stepped(tiny)
    torch.rand(7, generator=state.generators["sampling"])
    state.kl_control.coef = 0.123456789012345678
    state.score_statistics.update([1.0, 2.5, 0.1])
    state.skipped = SkippedUpdates(row=2)
    state.best, state.stopped, state.unlogged = Best(2, 1.5, 3), "why", {"a": 0.1}
    path = save_checkpoint(tmp_path, policy, optimizer, state, SETTINGS, keep=2)
    following = torch.rand(3, generator=state.generators["sampling"])

    other, other_optimizer, restored = fresh(tiny)
    load_checkpoint(path, other, other_optimizer, restored, SETTINGS)
    assert (restored.step, restored.episodes, restored.stopped, restored.unlogged) == (3, 96, "why", {"a": 0.1})
    assert restored.kl_control == state.kl_control
    assert restored.score_statistics == state.score_statistics != RunningStatistics()
    assert (restored.best, restored.skipped.row) == (Best(2, 1.5, 3), 2)
    assert torch.equal(torch.rand(3, generator=restored.generators["sampling"]), following)
    for mine, theirs in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    before, after = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])


def test_the_newest_and_the_best_are_kept_and_nothing_is_half_written(tiny: LanguageModel, tmp_path: Path) -> None:
    policy, optimizer, state = stepped(tiny)
    state.best = Best(2, 1.0)
    for step in (1, 2, 3, 4, 5):
        state.step = step
        save_checkpoint(tmp_path, policy, optimizer, state, SETTINGS, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000005", "step-000004", "step-000002"]
    assert len(list(tmp_path.iterdir())) == 3
    assert {path.suffix for path in (tmp_path / "step-000005").iterdir()} == {".safetensors", ".json"}
    assert "value_head.layers.0.weight" in load_file(tmp_path / "step-000005" / "policy.safetensors")


@pytest.mark.parametrize("name", ["policy.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_damage_is_noticed_in_every_file(tiny: LanguageModel, tmp_path: Path, name: str) -> None:
    """One bit is enough; and nothing that is loaded into has changed."""
    path = save_checkpoint(tmp_path, *stepped(tiny), SETTINGS, keep=1)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    other, optimizer, state = fresh(tiny)
    before = [parameter.clone() for parameter in other.parameters()]
    with pytest.raises(DamagedError, match=f"step-000003 is damaged: {name}"):
        load_checkpoint(path, other, optimizer, state, SETTINGS)
    (path / name).unlink()
    with pytest.raises(DamagedError, match="is damaged"):
        load_checkpoint(path, other, optimizer, state, SETTINGS)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, other.parameters(), strict=True))
    assert state.step == 0


def test_a_damaged_manifest_is_damage(tiny: LanguageModel, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *stepped(tiny), SETTINGS, keep=1)
    for content in ("", "{", "[]"):
        (path / "manifest.json").write_text(content, encoding="utf-8")
        with pytest.raises(DamagedError):
            load_checkpoint(path, *fresh(tiny), SETTINGS)


def test_another_config_is_refused_by_name(tiny: LanguageModel, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *stepped(tiny), SETTINGS, keep=1)
    with pytest.raises(UserError, match=r"made with ppo.lr=0.001, the config says 0.002"):
        load_checkpoint(path, *fresh(tiny), {"ppo": {"lr": 2e-3}, "tracker": {"kind": "none"}})
    load_checkpoint(path, *fresh(tiny), {"ppo": {"lr": 1e-3}, "tracker": {"kind": "wandb"}})  # no matter to training


def test_another_model_is_refused_by_name(tiny: LanguageModel, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *stepped(tiny), SETTINGS, keep=1)
    _, _, state = fresh(tiny)
    other = Policy(tiny, ValueHead.mlp)
    with pytest.raises(
        UserError, match=r"is of another model than .*: value_head.layers.0.bias is \(1,\) there, \(640,\) here"
    ):
        load_checkpoint(path, other, make_optimizer(other, PPOConfig()), state, SETTINGS)


def test_a_newer_format_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *stepped(tiny), SETTINGS, keep=1)
    state = path / "state.json"
    state.write_text(state.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'), encoding="utf-8")
    shutil.copy(state, tmp_path / "copy")
    manifest = json.loads((path / "manifest.json").read_text())
    import hashlib

    manifest["state.json"] = hashlib.sha256(state.read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match="made by a newer llmrl"):
        load_checkpoint(path, *fresh(tiny), SETTINGS)
