"""nuScenes keyframes as a PyTorch data set: reads the sensors' files, transforms them, and batches the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes.dataroot import read_picture, read_points
from altermoma_ray.data.nuscenes.disturbances import Disturbance
from altermoma_ray.data.nuscenes.index import Index
from altermoma_ray.data.nuscenes.maps import draw_rasters
from altermoma_ray.data.nuscenes.radars import read_returns
from altermoma_ray.data.nuscenes.records import SampleRecord, camera_to_lidar, sweep_to_keyframe
from altermoma_ray.data.nuscenes.rig import choose_cameras
from altermoma_ray.data.transforms import (
    ImageView,
    InputConfig,
    boxes_in_range,
    choose_sweeps,
    drop_close,
    lidar_augmentation,
    normalise,
    points_in_range,
    transform_boxes,
    transform_points,
)
from altermoma_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One entry of a :class:`Batch`; C cameras, P points, M boxes."""

    token: str
    images: Tensor
    """[C, 3, H, W] float32."""
    points: Tensor
    """[P, 5] float32."""
    camera_intrinsics: Tensor
    """[C, 3, 3]."""
    camera_to_lidar: Tensor
    """[C, 4, 4]."""
    image_augmentation: Tensor
    """[C, 3, 3]."""
    lidar_augmentation: Tensor
    """[4, 4]."""
    boxes: Tensor
    """[M, 9] float32."""
    labels: Tensor
    """[M] int64."""
    raster: Tensor | None = None
    """[class, x, y] bool masks of the map, where the model's inputs ask for them."""
    radar: Tensor | None = None
    """[P, 45] float32 radar returns, where the model's inputs ask for them."""


class NuScenesDataset(Dataset[Sample]):
    """Keyframes of an index, ready for a model.

    Random draws depend on ``seed``, the epoch and the position in ``rows`` alone: a sample is the same in every worker,
    and a row which occurs twice in ``rows`` is augmented in two ways.
    """

    def __init__(
        self,
        index: Index,
        rows: Sequence[int],
        inputs: InputConfig,
        *,
        augment: bool,
        seed: int = 0,
        disturbance: Disturbance | None = None,
    ) -> None:
        """Choose the keyframes.

        Args:
            index: where the keyframes are described.
            rows: rows of the index; a row may occur more than once.
            inputs: the figures of the transforms.
            augment: whether to draw random transforms; otherwise those of evaluation are used.
            seed: of the random transforms.
            disturbance: takes points away; None leaves all.

        Raises:
            UserError: the data set lacks a camera that ``inputs`` name.
        """
        self.index, self.rows, self.inputs = index, list(rows), inputs
        self.augment, self.seed, self.epoch = augment, seed, 0
        self.disturbance = disturbance
        self.cameras = choose_cameras(inputs, index)

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other transforms from now on, in this process."""
        self.epoch = epoch

    def __getitem__(self, position: int) -> Sample:
        """Read and transform one keyframe.

        Raises:
            UserError: a sensor's file is missing or broken.
        """
        record = self.index.record(self.rows[position])
        # Asked for each keyframe: a data set may be used without `prepare`, whose `check_rig` looks at all of them.
        missing = [camera for camera in self.cameras if camera not in record.cameras]
        if missing:
            raise UserError(f"sample {record.token} has no picture of {missing[0]}; take it out of the tables")
        # A generator for each sample, not one for the data set: loader processes share no state, and any of them may
        # come first.
        rng = np.random.default_rng((self.seed, self.epoch, position)) if self.augment else None
        # The draws come in a fixed order (scene, cameras, sweeps): a reordering would change every augmented sample.
        scene = lidar_augmentation(self.inputs, rng)
        images, views = zip(*(self._picture(record, camera, rng) for camera in self.cameras), strict=True)
        boxes, labels = self._boxes(record, scene)
        cameras = [record.cameras[camera] for camera in self.cameras]
        return Sample(
            token=record.token,
            images=torch.stack(images),
            points=torch.from_numpy(self._points(record, scene, rng)),
            camera_intrinsics=_tensor([camera.intrinsic for camera in cameras]),
            # Without augmentation: the lift applies `lidar_augmentation` itself, once its pixels have become points.
            camera_to_lidar=_tensor([camera_to_lidar(record, camera) for camera in self.cameras]),
            image_augmentation=_tensor(views),
            lidar_augmentation=_tensor(scene),
            boxes=boxes,
            labels=labels,
            raster=self._raster(record, scene),
            radar=self._radar(record, scene),
        )

    def _raster(self, record: SampleRecord, scene: np.ndarray) -> Tensor | None:
        config = self.inputs.raster
        if config is None:
            return None
        return torch.from_numpy(
            draw_rasters(self.index.dataroot, record.location, record.lidar_to_global, scene, config)
        )

    def _radar(self, record: SampleRecord, scene: np.ndarray) -> Tensor | None:
        config, point_range = self.inputs.radar, self.inputs.point_range
        if config is None:
            return None
        returns = read_returns(
            self.index.dataroot,
            record,
            config,
            self.index.reading,
            scene=scene,
            within=lambda points: points_in_range(points, point_range),
        )
        return torch.from_numpy(returns)

    def _picture(self, record: SampleRecord, camera: str, rng: np.random.Generator | None) -> tuple[Tensor, np.ndarray]:
        frame = record.cameras[camera]
        # Sizes from the tables, before the file is opened: `read_picture` refuses a picture of another size.
        view = ImageView.draw(self.inputs, frame.width, frame.height, rng)
        picture = read_picture(self.index.dataroot, frame.file, frame.width, frame.height, self.index.reading)
        return normalise(view.apply(picture), self.inputs), view.matrix()

    def _points(self, record: SampleRecord, scene: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """[P, 5] float32: all sweeps in the augmented lidar frame, the ring replaced by the time lag (s).

        Args:
            record: the keyframe.
            scene: [4, 4] lidar frame to augmented lidar frame.
            rng: draws the sweeps; None takes the newest ones.
        """
        clouds = []
        chosen = choose_sweeps(len(record.sweeps), self.inputs.sweeps - 1, rng)
        for sweep in [record.lidar, *(record.sweeps[position] for position in chosen)]:
            points = read_points(self.index.dataroot, sweep.file, self.index.reading)
            if self.disturbance is not None:
                points = points[self.disturbance.kept(points, sweep, record)]
            # The published loader drops close points (returns of the vehicle itself) from earlier sweeps only.
            if sweep is record.lidar:
                cloud = transform_points(points, scene)
            else:
                points = drop_close(points, self.inputs.close_range)
                cloud = transform_points(points, scene @ sweep_to_keyframe(record, sweep))
            # Microseconds to seconds. The fifth column held the ring, which the model never sees.
            cloud[:, 4] = (record.lidar.timestamp - sweep.timestamp) / 1e6
            # Range is tested after augmentation, as the voxel grid lies in the augmented frame.
            clouds.append(cloud[points_in_range(cloud, self.inputs.point_range)])
        return np.concatenate(clouds)

    def _boxes(self, record: SampleRecord, scene: np.ndarray) -> tuple[Tensor, Tensor]:
        """Boxes to learn from; an unknown velocity counts as standing still, as in the published code."""
        table = record.boxes
        boxes = transform_boxes(table.boxes, scene)
        # Boxes without a single point are left out: the official evaluation leaves them out as well.
        keep = table.learnable & boxes_in_range(boxes, self.inputs.point_range)
        # float32 last: the transform above is computed in the index's float64.
        boxes = np.nan_to_num(boxes[keep], nan=0.0).astype(np.float32)
        return torch.from_numpy(boxes), torch.from_numpy(table.labels[keep].astype(np.int64))


def collate(samples: Sequence[Sample]) -> Batch:
    """Batch at least one sample."""
    return Batch(
        tokens=[sample.token for sample in samples],
        images=torch.stack([sample.images for sample in samples]),
        # Lists where samples differ in length: padding would add points which are none.
        points=[sample.points for sample in samples],
        camera_intrinsics=torch.stack([sample.camera_intrinsics for sample in samples]),
        camera_to_lidar=torch.stack([sample.camera_to_lidar for sample in samples]),
        image_augmentation=torch.stack([sample.image_augmentation for sample in samples]),
        lidar_augmentation=torch.stack([sample.lidar_augmentation for sample in samples]),
        boxes=[sample.boxes for sample in samples],
        labels=[sample.labels for sample in samples],
        rasters=[sample.raster for sample in samples if sample.raster is not None],
        radar=[sample.radar for sample in samples if sample.radar is not None],
    )


def _tensor(matrices: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    # Rounded last: poses are multiplied in float64, since float32 holds too few digits for coordinates on a map.
    return torch.from_numpy(np.stack(matrices).astype(np.float32))
