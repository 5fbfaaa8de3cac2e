"""Models as files for other runtimes: the dense parts, the sparse LiDAR encoder, and weights under released names.

A fusion model cannot be exported whole: the splat scatters features over cells that the calibration tells, and sparse
convolutions have no standard operation. The model is cut there. Each dense part becomes a file of its own, with the
names that NVIDIA's CUDA-BEVFusion reads (:mod:`.parts`); the sparse encoder becomes the file that libspconv's parser
reads (:mod:`.sparse_file`). Every file is run again after it was written, and compared with the model
(:mod:`.checks`). :mod:`.targets` puts this together, one function for each format.
"""
