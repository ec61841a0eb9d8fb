from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared.tiny import images, tiny_vit
from torch import nn

from mixplug import MAE, PassRequest, Phase, Position, Ramp, backbone_of
from mixplug.backbones.selection import random_visible
from mixplug.objectives.mae import patchify, unpatchify


def built(vit=None, **options):
    vit = vit or tiny_vit()
    torch.manual_seed(11)
    return MAE(**options).build(backbone_of(vit)), backbone_of(vit)


def literal_loss(mae, seen, keep):
    """He et al., section 3, patch by patch and image by image."""
    rows, columns = mae.patch_size
    losses = []
    for b, image in enumerate(seen.images):
        prefix = mae.num_prefix_tokens
        tokens = mae.embed(mae.encoder_norm(seen.output[b]))
        # With mask='features' the encoder's output still has every patch; cut it here.
        at = {p: i if seen.keep is not None else p for i, p in enumerate(keep[b].tolist())}
        from timm.layers import build_sincos2d_pos_embed

        position = build_sincos2d_pos_embed(list(seen.grid), mae.mask_token.shape[-1]).to(tokens)
        canvas = [
            (tokens[prefix + at[p]] if p in at else mae.mask_token[0, 0]) + position[p] for p in range(len(position))
        ]
        decoded = mae.predict(mae.norm(mae.blocks(torch.stack([*tokens[:prefix], *canvas])[None])))[0, prefix:]
        for p in range(len(position)):
            row, column = divmod(p, seen.grid[1])
            patch = image[:, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            target = patch.permute(1, 2, 0).flatten()
            if mae.norm_pix:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            counts = {"all": True, "masked": p not in at, "visible": p in at}[mae.loss]
            if counts:
                losses.append((decoded[p] - target).square().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mask", ["features", "input"])
@pytest.mark.parametrize("loss", ["masked", "visible", "all"])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_loss_is_the_papers(mask, loss, norm_pix):
    vit = tiny_vit(img_size=(8, 12), in_chans=2, reg_tokens=1).double()
    mae, backbone = built(vit, mask=mask, loss=loss, norm_pix=norm_pix)
    torch.manual_seed(0)
    keep = random_visible(3, 24, torch.device("cpu"), ratio=0.75)
    torch.manual_seed(0)  # the same draw again, inside of the pass
    seen = backbone.encode(images(3, 2, 8, 12, dtype=torch.float64), mae.request(Phase.SSL))
    value = mae(seen)
    torch.testing.assert_close(value, literal_loss(mae, seen, keep), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", ["features", "input"])
def test_masking_where_it_says(mask):
    vit = tiny_vit()
    mae, backbone = built(vit, mask=mask)
    seen = backbone.encode(images(2), mae.request(Phase.SSL))
    assert seen.output.shape[1] == 1 + (16 if mask == "features" else 4)


def test_hidden_pixels_reach_the_loss_with_input_masking_as_targets_only():
    mae, backbone = built(tiny_vit().double(), mask="input")
    x = images(1, dtype=torch.float64)
    x.requires_grad_()
    torch.manual_seed(0)
    seen = backbone.encode(x, mae.request(Phase.SSL))
    mae(seen).backward()
    moved = patchify(x.grad, (2, 2)).abs().sum(-1)[0] > 0
    assert sorted(moved.nonzero().flatten().tolist()) == sorted(seen.keep[0].tolist())


@given(st.integers(2, 300), st.floats(0, 1, exclude_max=True))
def test_something_is_always_hidden_and_something_visible(patches, ratio):
    keep = random_visible(2, patches, torch.device("cpu"), ratio=ratio)
    assert 1 <= keep.shape[1] <= patches - 1
    assert keep.shape[1] == min(max(int(patches * (1 - ratio) + 1e-6), 1), patches - 1)
    for row in keep:
        assert len(set(row.tolist())) == keep.shape[1]
        assert row.min() >= 0
        assert row.max() < patches


def test_visible_patches_are_uniform():
    torch.manual_seed(0)
    keep = random_visible(20_000, 8, torch.device("cpu"), ratio=0.75)
    counts = torch.bincount(keep.flatten(), minlength=8)
    assert (counts - 5000).abs().max() < 5 * (20_000 * 0.25 * 0.75) ** 0.5


def test_an_image_of_one_patch_has_nothing_to_hide():
    with pytest.raises(ValueError, match="is a single one"):
        built(tiny_vit(patch_size=8), mask="input")
    mae, backbone = built(tiny_vit(patch_size=8, dynamic_img_size=True), mask="input")
    with pytest.raises(ValueError, match="nothing to hide"):
        backbone.encode(images(2), mae.request(Phase.SSL))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_patchify_round_trip(channels, rows, columns, ph, pw):
    x = images(2, channels, rows * ph, columns * pw)
    patches = patchify(x, (ph, pw))
    assert patches.shape == (2, rows * columns, ph * pw * channels)
    assert torch.equal(unpatchify(patches, (ph, pw), (rows, columns)), x)


def test_a_ramp_of_the_mask_ratio_holds_its_start_in_ssl():
    mae, _ = built(mask="input", mask_ratio=Ramp(0.75, 0.0))
    ratio = [mae.request(Position(phase, 0.5)).metrics["mask_ratio"] for phase in (Phase.SSL, Phase.MIX)]
    assert ratio == [0.75, 0.375]


def test_phases_by_name():
    mae, _ = built(mask="input", mask_ratio=Ramp(0.75, 0.0))
    assert mae.request(Position("mix", 1.0)).metrics["mask_ratio"] == 0.0
    with pytest.raises(ValueError, match="must be one of"):
        mae.request("mixed")


def two_passes(vit, **options):
    """An MAE of two passes, and how many patches the encoder saw in each pass."""
    mae, backbone = built(vit, mask="input", fused=False, **options)
    seen = []
    vit.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output.shape[1] - 1))
    return mae, backbone, seen


def test_in_two_passes_the_classifier_reads_all_patches_and_the_decoder_the_visible_ones():
    """Logits of the plain model, the loss of masking the input, and their gradients."""
    vit = tiny_vit().double()
    mae, backbone, seen = two_passes(vit)
    reference = tiny_vit().double()
    fused, reference_backbone = built(reference, mask="input")
    x = images(3, dtype=torch.float64)

    torch.manual_seed(0)
    with backbone.watch(mae.request(Phase.MIX)) as left:
        logits = vit(x)
    loss = mae(left)
    assert seen == [16, 4]
    assert mae.request(Phase.MIX).metrics == {"mask_ratio": 0.75}
    (0.9 * loss + 0.1 * logits.logsumexp(1).sum()).backward()

    reference_logits = reference(x)
    torch.manual_seed(0)
    reference_loss = fused(reference_backbone.encode(x, fused.request(Phase.MIX)))
    assert torch.equal(logits, reference_logits)
    assert torch.equal(loss, reference_loss)
    (0.9 * reference_loss).backward()
    (0.1 * reference_logits.logsumexp(1).sum()).backward()
    for own, expected in ((vit, reference), (mae, fused)):
        for one, other in zip(own.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


def test_without_a_classifier_one_pass_is_enough():
    vit = tiny_vit()
    mae, backbone, seen = two_passes(vit)
    with backbone.watch(mae.request(Phase.SSL)) as left:
        vit(images(2))
    mae(left)
    assert seen == [4]


def test_a_ramp_applies_to_the_second_pass():
    vit = tiny_vit()
    mae, backbone, seen = two_passes(vit, mask_ratio=Ramp(0.75, 0.25))
    for progress in (0.0, 1.0):
        mae(backbone.encode(images(2), mae.request(Position(Phase.MIX, progress))))
    assert seen == [16, 4, 16, 12]


def test_a_reconstruction_leaves_out_the_classifiers_pass():
    vit = tiny_vit().eval()
    mae, backbone, seen = two_passes(vit)
    pictures = []
    for phase in (Phase.SSL, Phase.MIX):
        torch.manual_seed(0)
        pictures.append(mae.reconstruct(backbone, images(2), phase))
    assert seen == [4, 4]
    assert torch.equal(pictures[0].masked, pictures[1].masked)
    assert patchify(pictures[0].masked, (2, 2)).eq(0).all(-1).sum(1).tolist() == [12, 12]
    assert torch.equal(pictures[0].reconstruction, pictures[1].reconstruction)


def test_two_passes_are_another_objective():
    """For the comparison of methods, of a second Trainer's head and of checkpoints."""
    one, two = MAE(mask="input"), MAE(mask="input", fused=False)
    assert (one.kind, two.kind) == ("MAE (input)", "MAE (input, two passes)")
    assert (one.single_pass, two.single_pass) == (True, False)
    assert "fused=False" in repr(two)
    assert repr(one) == repr(two).replace(", fused=False", "")


def test_patches_of_one_value_cannot_be_normalised():
    with pytest.raises(ValueError, match="at least 2 values"):
        built(tiny_vit(img_size=4, patch_size=1), norm_pix=True)


def test_a_ramp_applies_to_feature_masking_too():
    mae, backbone = built(mask="features", mask_ratio=Ramp(0.75, 0.25), loss="visible")
    seen = backbone.encode(images(2), mae.request(Position(Phase.MIX, 1.0)))
    _, keep = mae._predict(seen)
    assert keep.shape == (2, 12)


def test_the_decoder_is_as_wide_and_deep_as_told():
    mae, _ = built(decoder_dim=24, decoder_depth=3, decoder_heads=4)
    assert (mae.embed.out_features, len(mae.blocks), mae.blocks[0].attn.num_heads) == (24, 3, 4)
    default, backbone = built()
    assert (default.embed.out_features, len(default.blocks)) == (backbone.embed_dim, 2)


def test_tokens_without_a_final_norm_are_normalised_by_the_decoder():
    assert isinstance(built(tiny_vit())[0].encoder_norm, nn.Identity)
    assert isinstance(built(tiny_vit(global_pool="avg"))[0].encoder_norm, nn.LayerNorm)


def test_building_twice():
    mae, backbone = built()
    weights = mae.embed.weight
    assert mae.build(backbone).embed.weight is weights
    with pytest.raises(ValueError, match="built for another backbone"):
        mae.build(backbone_of(tiny_vit(embed_dim=32)))
    with pytest.raises(RuntimeError, match="call build"):
        MAE()(backbone.encode(images(2), PassRequest(Phase.SSL)))


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("mask", ["features", "input"])
def test_reconstruction(mask, norm_pix):
    vit = tiny_vit(in_chans=3).eval()
    mae, backbone = built(vit, mask=mask, norm_pix=norm_pix)
    x = images(2, 3, 8, 8)
    torch.manual_seed(0)
    original, masked, reconstruction, prediction = mae.reconstruct(backbone, x)
    assert torch.equal(original, x)
    hidden = patchify(masked, (2, 2)).eq(0).all(-1)
    assert hidden.sum(1).tolist() == [12, 12]
    shown = ~hidden.unsqueeze(-1)
    assert torch.equal(patchify(reconstruction, (2, 2)) * shown, patchify(x, (2, 2)) * shown)
    assert torch.equal(patchify(reconstruction, (2, 2)) * ~shown, patchify(prediction, (2, 2)) * ~shown)
    assert not any(p.requires_grad and p.grad is not None for p in vit.parameters())


def test_it_learns_to_reconstruct():
    """On four images that it sees again and again, the error of hidden patches falls below the data's variance."""
    vit = tiny_vit(embed_dim=32)
    mae, backbone = built(vit, mask="input", mask_ratio=0.5)
    x = images(4, 1, 2, 2).repeat(1, 1, 4, 4)
    optimizer = torch.optim.AdamW([*vit.parameters(), *mae.parameters()], lr=3e-3)
    losses = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = mae(backbone.encode(x, mae.request(Phase.SSL)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert losses[-1] < 0.1 * x.var()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": "pixels"}, ValueError, "mask must be one of"),
        ({"mask": "feature"}, ValueError, "did you mean 'features'"),
        ({"mask_ratio": 1.0}, ValueError, r"mask_ratio must be a number in \[0, 1\)"),
        ({"mask_ratio": "0.75"}, TypeError, "without quotes"),
        ({"mask_ratio": Ramp(0.75, 1.0)}, ValueError, "mask_ratio=Ramp"),
        ({"decoder_depth": 0}, ValueError, "decoder_depth"),
        ({"decoder_depth": 2.0}, TypeError, "decoder_depth"),
        ({"decoder_dim": 0}, ValueError, "decoder_dim"),
        ({"decoder_heads": 0}, ValueError, "decoder_heads"),
        ({"norm_pix": "yes"}, TypeError, "norm_pix"),
        ({"loss": "hidden"}, ValueError, "loss must be one of"),
        ({"mask": "input", "fused": 0}, TypeError, "fused must be true or false"),
        ({"fused": False}, ValueError, "fused=False needs mask='input', .* a second pass would repeat the first"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        MAE(**options)


def test_a_decoder_that_cannot_be():
    with pytest.raises(ValueError, match="16 wide with 3 heads"):
        built(decoder_heads=3)


@pytest.mark.parametrize("mask", ["features", "input"])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_loss_is_float32_inside_of_autocast(mask, norm_pix):
    """And what bfloat16 makes of the passes, not of the squares."""
    backbone = backbone_of(tiny_vit())
    objective = MAE(mask=mask, norm_pix=norm_pix).build(backbone)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(objective(backbone.encode(images(8), objective.request(Phase.MIX))))
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=0)
