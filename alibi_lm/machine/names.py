"""The devices and dtypes that can be chosen. No torch here."""

DTYPES = ("float32", "bfloat16", "float16")
DTYPE_MEANING = "bfloat16, float16: matrix products under autocast"
DEVICES = ("auto", "cpu", "cuda")
DEVICE_MEANING = "auto: a GPU if there is one"
