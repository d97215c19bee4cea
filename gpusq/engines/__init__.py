"""One file per builder and runner: OpenVINO, ONNX Runtime, TensorRT-RTX, TensorRT and the bundle a device finishes."""
