import shutil

import pytest
import torch
from safetensors.torch import load_file

from llmrl.config import PPOConfig
from llmrl.errors import UserError
from llmrl.models.load import LanguageModel
from llmrl.models.policy import Policy
from llmrl.ppo.checkpoint import Progress, load_checkpoint, save_checkpoint
from llmrl.ppo.update import make_optimizer
from llmrl.tracking import RunFolder


def stepped(tiny: LanguageModel) -> tuple[Policy, torch.optim.Optimizer, Progress]:
    policy = Policy(tiny)
    optimizer = make_optimizer(policy, PPOConfig(lr=1e-3))
    for parameter in policy.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return policy, optimizer, Progress(step=3, episodes=96, generators={"sampling": torch.Generator().manual_seed(5)})


def test_everything_comes_back(tiny: LanguageModel, tmp_path) -> None:
    policy, optimizer, progress = stepped(tiny)
    torch.rand(7, generator=progress.generators["sampling"])
    path = save_checkpoint(tmp_path, policy, optimizer, progress, keep=2)
    following = torch.rand(3, generator=progress.generators["sampling"])

    other = Policy(tiny.frozen_copy())
    other.model.requires_grad_(True)
    other_optimizer = make_optimizer(other, PPOConfig(lr=1e-3))
    restored = load_checkpoint(path, other, other_optimizer, {"sampling": torch.Generator()})
    assert (restored.step, restored.episodes) == (3, 96)
    assert torch.equal(torch.rand(3, generator=restored.generators["sampling"]), following)
    for mine, theirs in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    before, after = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])


def test_the_newest_are_kept_and_nothing_is_half_written(tiny: LanguageModel, tmp_path) -> None:
    policy, optimizer, progress = stepped(tiny)
    for step in (1, 2, 3):
        progress.step = step
        save_checkpoint(tmp_path, policy, optimizer, progress, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    assert {path.suffix for path in (tmp_path / "step-000003").iterdir()} == {".safetensors", ".json"}
    assert "value_head.linear.weight" in load_file(tmp_path / "step-000003" / "policy.safetensors")


def test_a_checkpoint_that_is_damaged_or_of_another_model_is_refused(tiny: LanguageModel, tmp_path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        RunFolder(tmp_path).newest_checkpoint()
    policy, optimizer, progress = stepped(tiny)
    path = save_checkpoint(tmp_path, policy, optimizer, progress, keep=1)
    shutil.copy(path / "random.safetensors", path / "policy.safetensors")
    with pytest.raises(UserError, match="is of another model"):
        load_checkpoint(path, policy, optimizer, progress.generators)
    (path / "policy.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match="can't be read"):
        load_checkpoint(path, policy, optimizer, progress.generators)
