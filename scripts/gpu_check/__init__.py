"""``python -m scripts.gpu_check``: all that this project claims of a GPU, checked on one."""
