"""Names and layouts of our fusion model's tensors in the released checkpoints of BEVFusion.

Two releases are of the model of Liu et al. (ICRA 2023), from mit-han-lab and from mmdetection3d; one is of the model of
Liang et al. (NeurIPS 2022), from ADLab-AutoDrive. Each holds the same tensors as our model of its architecture, one to
one, constants (grids, frustum, window indices) included.
Names follow by rule. A ResNet in the place of the Swin transformer keeps torchvision's names, which are mmdetection's
too. The numbers differ in layout at five places, and one of them in its meaning:

Sparse kernels
    spconv 1.x stores [k0, k1, k2, in, out], spconv 2.x and our model [out, k0, k1, k2, in]; neither flips the kernel.
    Either release may hold either layout (mmdetection3d trains on both libraries), so the shape decides.
Axes of maps (ADLab-AutoDrive only)
    The release has bird's-eye-view maps [batch, channel, y, x] and voxels (z, y, x), where our model has
    [batch, channel, x, y] and (x, y, z). Kernels that slide over maps or voxels have their spatial axes in the reverse
    order. Kernels that slide over pictures are the same.
Patch merging (mit-han-lab and mmdetection3d)
    The four merged tokens lie in the released channels as c·4 + (2·row + column), in torchvision's as
    b·C + c with b counting (row, column) = (0, 0), (1, 0), (0, 1), (1, 1). Both the norm and the reduction see them.
    ADLab-AutoDrive's order is torchvision's.
Window index
    Released as [tokens, tokens], in torchvision flat.
Boxes (mit-han-lab and ADLab-AutoDrive)
    The releases were trained in the coordinates of mmdetection3d before 1.0: sizes are (width, length, height) and
    yaw' = -yaw - π/2, as its converter writes them and its result formatting undoes them. With yaw = -yaw' - π/2::

        sin yaw = -cos yaw'        cos yaw = -sin yaw'

    The last layers of ``dim`` and ``rot`` are linear in their rows, so swapping rows (and negating those of ``rot``)
    gives (length, width, height) and (sin yaw, cos yaw) exactly. mmdetection3d 1.x has these from the start.
Height (mit-han-lab only)
    The release's coder adds half a box's height to the bottom, to regress the centre. Its data set, however, declares
    the centres to be bottoms (``origin=(0.5, 0.5, 0)``): the release regressed the top, and its results stand half
    their height too high. The two others declare the centres as centres; their releases regress the centre. The height
    between the two points is itself regressed, and no change of the weights turns one convention into the other: the
    convention goes with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor

from altermoma_ray.models.configurations.transfusion import Height

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A regular expression and its replacement."""


def _later(text: str, offset: int) -> Callable[[re.Match[str]], str]:
    """Replacement ``text`` whose ``{}`` is the match's first group as a number, plus ``offset``."""
    return lambda match: text.format(int(match[1]) + offset)


_MIT_RULES: tuple[Rule, ...] = (
    # Swin: torchvision's `features` are patch embedding, stage 0, patch merging, stage 1, ...
    (r"\.features\.0\.0\.", ".patch_embed.projection."),
    (r"\.features\.0\.2\.", ".patch_embed.norm."),
    (r"\.features\.(\d+)\.(?=norm\.|reduction\.)", lambda match: f".stages.{int(match[1]) // 2 - 1}.downsample."),
    (r"\.features\.(\d+)\.", lambda match: f".stages.{int(match[1]) // 2}.blocks."),
    (r"\.output_norms\.(\d+)\.", _later(".norm{}.", 1)),
    (r"(?<=\.)attn\.", "attn.w_msa."),
    (r"\.mlp\.0\.", ".ffn.layers.0.0."),
    (r"\.mlp\.3\.", ".ffn.layers.1."),
    # Neck and view transform.
    (r"_convs\.(\d+)\.0\.", r"_convs.\1.conv."),
    (r"_convs\.(\d+)\.1\.", r"_convs.\1.bn."),
    (r"\.output_convs\.", ".fpn_convs."),
    (r"\.view_transform\.", ".vtransform."),
    (r"\.grid_step$", ".dx"),
    (r"\.grid_first_centre$", ".bx"),
    (r"\.grid_cells$", ".nx"),
    (r"\.depth_net\.", ".dtransform."),
    (r"\.lift_net\.", ".depthnet."),
    # Sparse encoder and head.
    (r"\.input_conv\.", ".conv_input."),
    (r"\.output_conv\.", ".conv_out."),
    (r"(?<=lidar\.backbone)\.stages\.(\d+)\.", _later(".encoder_layers.encoder_layer{}.", 1)),
    (r"(lidar\..*)\.norm(\d)\.", r"\1.bn\2."),
    (r"^head\.", "heads.object."),
)

_MMDET3D_RULES: tuple[Rule, ...] = (
    (r"^encoders\.camera\.backbone\.", "img_backbone."),
    (r"^encoders\.camera\.neck\.", "img_neck."),
    (r"^encoders\.camera\.vtransform\.", "view_transform."),
    (r"^encoders\.lidar\.backbone\.", "pts_middle_encoder."),
    (r"^fuser\.", "fusion_layer."),
    (r"^decoder\.backbone\.", "pts_backbone."),
    (r"^decoder\.neck\.", "pts_neck."),
    (r"^heads\.object\.", "bbox_head."),
    (r"\.self_attn\.", ".self_attn.attn."),
    (r"\.multihead_attn\.", ".cross_attn.attn."),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
    (r"(?<=bbox_head\.decoder)\.(\d+)\.norm(\d)\.", lambda match: f".{match[1]}.norms.{int(match[2]) - 1}."),
)

_PKU_RULES: tuple[Rule, ...] = (
    # A composite of two Swin transformers, then either one: torchvision's `features` as above.
    (r"\.backbone\.assisting\.", ".backbone.cb_modules.0."),
    (r"\.backbone\.lead\.", ".backbone.cb_modules.1."),
    (r"\.backbone\.composition\.", ".backbone.cb_linears."),
    (r"\.features\.0\.0\.", ".patch_embed.proj."),
    (r"\.features\.0\.2\.", ".patch_embed.norm."),
    (r"\.features\.(\d+)\.(?=norm\.|reduction\.)", lambda match: f".layers.{int(match[1]) // 2 - 1}.downsample."),
    (r"\.features\.(\d+)\.", lambda match: f".layers.{int(match[1]) // 2}.blocks."),
    (r"\.output_norms\.(\d+)\.", _later(".norm{}.", 0)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"\.neck\.pyramid\.inner_blocks\.(\d+)\.0\.", r".neck.lateral_convs.\1.conv."),
    (r"\.neck\.pyramid\.layer_blocks\.(\d+)\.0\.", r".neck.fpn_convs.\1.conv."),
    (r"\.neck\.adapters\.(\d+)\.", r".neck.adp.\1.1.conv."),
    (r"\.neck\.reduce\.", ".neck.reduc_conv.conv."),
    (r"^encoders\.camera\.backbone\.", "img_backbone."),
    (r"^encoders\.camera\.neck\.", "img_neck."),
    (r"^encoders\.camera\.view_transform\.", "lift_splat_shot_vis."),
    (r"\.grid_step$", ".dx"),
    (r"\.grid_first_centre$", ".bx"),
    (r"\.grid_cells$", ".nx"),
    (r"\.lift_net\.0\.", ".camencode.depthnet."),
    (r"^lift_splat_shot_vis\.downsample\.", "lift_splat_shot_vis.bevencode."),
    (r"^encoders\.lidar\.backbone\.", "pts_middle_encoder."),
    (r"\.input_conv\.", ".conv_input."),
    (r"\.output_conv\.", ".conv_out."),
    (r"^pts_middle_encoder\.stages\.(\d+)\.", _later("pts_middle_encoder.encoder_layers.encoder_layer{}.", 1)),
    (r"(^pts_middle_encoder\..*)\.norm(\d)\.", r"\1.bn\2."),
    (r"^encoders\.lidar\.decoder\.backbone\.", "pts_backbone."),
    (r"^encoders\.lidar\.decoder\.neck\.", "pts_neck."),
    (r"^fuser\.0\.", "reduc_conv.conv."),
    (r"^fuser\.1\.", "reduc_conv.bn."),
    (r"^fuser\.3\.weights\.", "seblock.att."),
    (r"^head\.", "pts_bbox_head."),
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A way to name and lay out the tensors of a released BEVFusion.

    >>> MIT.name("fuser.0.weight"), MMDET3D.name("fuser.0.weight")
    ('fuser.0.weight', 'fusion_layer.0.weight')
    """

    origin: str
    """The project with this way."""
    rules: tuple[Rule, ...]
    """From our names to the released ones; all are applied, in this order."""
    old_boxes: bool
    """Whether boxes follow mmdetection3d before 1.0; see the module's text."""
    height: Height | None
    """The point of a box whose z the output ``height`` is; see the module's text. None where the weights follow their
    own configuration."""
    y_first: bool = False
    """Whether maps are [y, x] and voxels (z, y, x); see the module's text."""
    unfolded_merging: bool = True
    """Whether merged tokens lie as unfolding orders them; see the module's text."""

    def name(self, ours: str) -> str:
        """The released name of one of our tensors."""
        for pattern, replacement in self.rules:
            ours = re.sub(pattern, replacement, ours)
        return ours

    def shapes(self, ours: str, tensor: Tensor) -> list[Size]:
        """The possible shapes of the released counterpart of our ``tensor``."""
        shape = self._reversed(ours, tensor).shape
        if not self.rules:
            return [shape]
        if _is_window_index(ours):
            return [Size([round(shape.numel() ** 0.5)] * 2)]
        if _is_sparse_kernel(tensor):
            return [shape, Size([*shape[1:], shape[0]])]
        return [shape]

    def convert(self, ours: str, tensor: Tensor, released: Tensor) -> Tensor:
        """A released tensor in our layout and type.

        Args:
            ours: our name of the tensor.
            tensor: our tensor, for its type and shape.
            released: the released tensor, of one of :meth:`shapes`.
        """
        released = released.to(tensor.dtype)
        if not self.rules:
            return released
        if _is_window_index(ours):
            return released.flatten()
        if _is_sparse_kernel(tensor):
            # Equal shapes mean the layout of spconv 2; both layouts coincide only for as many channels as kernel cells.
            is_second = released.shape == self._reversed(ours, tensor).shape
            return self._reversed(ours, released if is_second else released.permute(4, 0, 1, 2, 3))
        if self.unfolded_merging and _is_merging(ours):
            # [c, 4] to torchvision's [4, c]; the order [0, 2, 1, 3] exchanges rows and columns of the four tokens.
            return released.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
        if self.old_boxes and _is_last_of("dim", ours):
            return released[[1, 0, 2]]
        if self.old_boxes and _is_last_of("rot", ours):
            return -released[[1, 0]]
        return self._reversed(ours, released)

    def restore(self, ours: str, tensor: Tensor) -> Tensor:
        """One of our tensors in the released layout: the inverse of :meth:`convert`, kernels in spconv 2's layout.

        Args:
            ours: our name of the tensor.
            tensor: the tensor.
        """
        if not self.rules:
            return tensor
        if _is_window_index(ours):
            return tensor.unflatten(0, (round(tensor.numel() ** 0.5), -1))
        if self.unfolded_merging and _is_merging(ours):
            return tensor.unflatten(-1, (4, -1)).transpose(-1, -2)[..., [0, 2, 1, 3]].flatten(-2)
        if self.old_boxes and _is_last_of("dim", ours):
            return tensor[[1, 0, 2]]
        if self.old_boxes and _is_last_of("rot", ours):
            return -tensor[[1, 0]]
        return self._reversed(ours, tensor)

    def _reversed(self, ours: str, tensor: Tensor) -> Tensor:
        """A kernel over maps or voxels with its spatial axes in the release's order, or back.

        Other tensors stay as they are. Sparse kernels are in spconv 2's layout.
        """
        if not self.y_first or _OVER_PICTURES.match(ours):
            return tensor
        if _is_sparse_kernel(tensor):
            return tensor.permute(0, 3, 2, 1, 4)
        return tensor.transpose(2, 3) if tensor.dim() == 4 else tensor


OURS = Release(origin="altermoma_ray", rules=(), old_boxes=False, height=None)
"""A bare ``state_dict()`` of our own model: no name and no layout changes."""
MIT = Release(origin="mit-han-lab", rules=_MIT_RULES, old_boxes=True, height="top")
MMDET3D = Release(origin="mmdetection3d", rules=_MIT_RULES + _MMDET3D_RULES, old_boxes=False, height="centre")
RELEASES = (MIT, MMDET3D)
"""Of the model of Liu et al."""
PKU = Release(
    origin="ADLab-AutoDrive",
    rules=_PKU_RULES,
    old_boxes=True,
    height="centre",
    y_first=True,
    unfolded_merging=False,
)
"""Of the model of Liang et al."""
NAMINGS = (*RELEASES, PKU, OURS)


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the outdated names of mmdetection3d's ``bevfusion_converted.pth`` brought up to date."""
    return {re.sub(r"^vtransform\.", "view_transform.", name): tensor for name, tensor in tensors.items()}


def is_constant(ours: str) -> bool:
    """Whether a tensor of our model follows from its configuration alone."""
    return _is_window_index(ours) or ours.endswith((".grid_step", ".grid_first_centre", ".grid_cells", ".frustum"))


def is_optional(ours: str) -> bool:
    """Whether a file may lack a tensor of our model: constants, and counters unknown to old versions of PyTorch."""
    return is_constant(ours) or ours.endswith(".num_batches_tracked")


_OVER_PICTURES = re.compile(r"encoders\.camera\.(?!view_transform\.downsample\.)")
"""Our names of tensors that see pictures, not maps."""


def _is_window_index(ours: str) -> bool:
    return ours.endswith(".relative_position_index")


def _is_merging(ours: str) -> bool:
    return re.search(r"\.features\.\d+\.(norm|reduction)\.", ours) is not None


def _is_last_of(branch: str, ours: str) -> bool:
    return re.search(rf"\.{branch}\.1\.(weight|bias)$", ours) is not None


def _is_sparse_kernel(tensor: Tensor) -> bool:
    return tensor.dim() == 5
