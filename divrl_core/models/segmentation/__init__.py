"""Models that say where the subject of a picture is: transformers' segmentation classes, and ONNX files."""
