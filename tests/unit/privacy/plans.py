"""A plan that protects images by noise."""

TEXT = """
name = "lesions"
classes = ["round", "lobed"]
method = "fedavg"
rounds = 2
seed = 3
[image]
size = 8
[nets]
norm = "group"
[training]
epochs = 1
batch = 8
precision = "fp32"
[round]
patience = 0
[merge]
weight = "uniform"
[privacy]
mode = "dp"
sampling_rate = 0.25
"""
