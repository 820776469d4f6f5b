"""What anybody would write first: a loop around the runtime's own API. Prints the median in milliseconds.

python bare.py onnxruntime|openvino|litert|tflite-runtime MODEL SECONDS
"""

import sys
import time

import numpy as np

runtime, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
rng = np.random.RandomState(0)

if runtime == "onnxruntime":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    one = session.get_inputs()[0]
    feed = {one.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in one.shape]).astype(np.float32)}

    def infer():
        session.run(None, feed)

elif runtime == "openvino":
    import openvino

    model = openvino.Core().read_model(path)
    shape = [1 if d.is_dynamic else d.get_length() for d in model.inputs[0].get_partial_shape()]
    model.reshape(shape)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    x = rng.standard_normal(shape).astype(np.float32)

    def infer():
        np.copyto(request.get_input_tensor(0).data, x)
        request.infer()

else:
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    given, taken = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    x = rng.standard_normal(given["shape"]).astype(np.float32)

    def infer():
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        interpreter.get_tensor(taken["index"])


until = time.perf_counter() + 0.1
while time.perf_counter() < until:
    infer()
times = []
until = time.perf_counter() + seconds
while time.perf_counter() < until:
    before = time.perf_counter()
    infer()
    times.append(time.perf_counter() - before)
print(np.median(times) * 1e3)
