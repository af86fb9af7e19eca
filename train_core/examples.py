"""Code that uses an exported model without this package, for its card; `train_core.formats` assigns it to files.

Templates of `string.Template`: `$file` is the model, `$image` a picture; `$mode`, `$height`, `$width` and `$channels`
describe the model's input; `$network` is the code of the network, made from the code that built it
(`network_source`). Imports no torch.
"""

import inspect
import re
from pathlib import Path
from string import Template
from typing import Literal

FormatName = Literal["onnx", "onnx-int8", "pt2", "safetensors", "tflite", "tflite-int8", "tflite-header"]

_IMAGE = """\
# One image as the model wants it: float32 [1, $channels, $height, $width], 0 to 255.
image = Image.open("$image")
image.draft(None, ($draft, $draft))  # decodes a large JPEG faster
image = ImageOps.exif_transpose(image)
if image.mode.startswith("I"):  # 16 bits, of which $bits are used
    image = Image.fromarray((np.asarray(image).clip(0, $highest) >> $shift).astype(np.uint8))
if image.has_transparency_data:
    image = Image.alpha_composite(Image.new("RGBA", image.size, "$background"), image.convert("RGBA"))
image = image.convert("RGB")
image = $fit.convert("$mode")
pixels = np.asarray(image, np.float32).reshape(1, $height, $width, $channels).transpose(0, 3, 1, 2)
"""

_TORCH_END = f"""\
{_IMAGE}
with torch.inference_mode():
    probabilities = model(torch.from_numpy(pixels.copy())).softmax(dim=1)[0]
for label in probabilities.argsort(descending=True)[:3].tolist():
    print(f"{{classes[label]}} {{probabilities[label]:.4f}}")
"""

ONNX = f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("$file")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

{_IMAGE}
(logits,) = session.run(["logits"], {{"images": pixels}})
probabilities = np.exp(logits[0] - logits[0].max())
probabilities /= probabilities.sum()
for label in (-probabilities).argsort()[:3]:
    print(f"{{classes[label]}} {{probabilities[label]:.4f}}")
"""

_BY_ROWS = _IMAGE.replace("float32 [1, $channels, $height, $width]", "[1, $height, $width, $channels]").replace(
    "np.asarray(image, np.float32).reshape(1, $height, $width, $channels).transpose(0, 3, 1, 2)",
    "np.asarray(image).reshape(1, $height, $width, $channels)",
)

_TFLITE_END = """\
probabilities = np.exp(logits - logits.max())
probabilities /= probabilities.sum()
for label in (-probabilities).argsort()[:3]:
    print(f"{classes[label]} {probabilities[label]:.4f}")
"""

_FROM_TFLITE = """\
import json

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import Model
from PIL import Image, ImageOps

with open("$file", "rb") as file:
    content = file.read()
model = Model.GetRootAs(content)
notes = {model.Metadata(i).Name(): model.Buffers(model.Metadata(i).Buffer()) for i in range(model.MetadataLength())}
classes = json.loads(bytes(notes[b"classes"].DataAsNumpy()))
"""

_FLOATS = """\
interpreter = Interpreter(model_content=content)
network = interpreter.get_signature_runner()
logits = network(images=pixels.astype(np.float32))["logits"][0]
"""

_BYTES = """\
interpreter = Interpreter(model_content=content)
interpreter.allocate_tensors()
(taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(taken["index"], (pixels.astype(np.int16) - 128).astype(np.int8))
interpreter.invoke()
scale, zero = given["quantization"]
logits = (interpreter.get_tensor(given["index"])[0].astype(np.float32) - zero) * scale
"""

TFLITE = f"{_FROM_TFLITE}\n{_BY_ROWS}\n{_FLOATS}{_TFLITE_END}"
TFLITE_INT8 = f"{_FROM_TFLITE}\n{_BY_ROWS}\n{_BYTES}{_TFLITE_END}"

HEADER = f"""\
import json
import re

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

with open("$file", encoding="ascii") as file:
    header = file.read()
classes = json.loads(json.loads(re.search(r"^// (\\{{.*\\}})$$", header, re.MULTILINE)[1])["classes"])
content = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{{2}})\\b", header.split("model_data[")[1]))

{_BY_ROWS}
{_BYTES}{_TFLITE_END}"""

PT2 = f"""\
import json

import numpy as np
import torch
from PIL import Image, ImageOps

about = {{"classes": ""}}
model = torch.export.load("$file", extra_files=about).module()
classes = json.loads(about["classes"])

{_TORCH_END}"""

_WEIGHTS = """\
import json
from copy import copy
from types import SimpleNamespace
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

$network


class Model(ResNet):
    def forward(self, images):
        return super().forward(images * self.scale + self.shift)


with safe_open("$file", "pt") as file:
    about = {name: json.loads(value) for name, value in file.metadata().items()}
    weights = {name: file.get_tensor(name) for name in file.keys()}
spec = SimpleNamespace(**about["network"])
spec.stem_channels = spec.stem_width or spec.widths[0]
model = Model(spec).eval()
model.scale, model.shift = weights.pop("scale"), weights.pop("shift")
model.load_state_dict({name.removeprefix("network."): tensor for name, tensor in weights.items()})
classes = about["classes"]
"""

SAFETENSORS = (
    _WEIGHTS.replace("import torch\n", "import numpy as np\nimport torch\nfrom PIL import Image, ImageOps\n", 1)
    + "\n"
    + _TORCH_END
)


def network_source() -> str:
    """The code of the network in `train_core.models`, without its imports from this package.

    The specs are read from the model file, and the class of each block comes from its record.
    """
    from train_core import models
    from train_core.blocks import BLOCKS
    from train_core.specs import BLOCK_KERNELS, BlockShape, block_shapes, in_stage, squeezed

    source = inspect.getsource(models)
    source = re.sub(r'\A""".*?"""\n', "", source, flags=re.DOTALL)
    source = re.sub(r"^(?:from|import) .*\n", "", source, flags=re.MULTILINE).strip()
    modules = {name: block.module for name, block in BLOCKS.items()}
    builders = ", ".join(f'"{name}": SimpleNamespace(build={module})' for name, module in modules.items())
    helpers = "\n\n".join(inspect.getsource(each) for each in (squeezed, BlockShape, block_shapes, in_stage))
    names = f"ResNetSpec = SimpleNamespace\nBLOCK_KERNELS = {BLOCK_KERNELS}"
    return f"{names}\n\n\n{helpers}\n\n{source}\n\n\nBLOCKS = {{{builders}}}"


def network_code(file: Path) -> str:
    """Code that defines `model` and `classes` from a `.safetensors` file."""
    return Template(_WEIGHTS).substitute(file=file, network=network_source())
