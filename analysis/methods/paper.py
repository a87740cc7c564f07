"""The values printed in the paper's tables (Tian et al., NeurIPS 2024, arXiv 2404.19245), to compare with ours.

Methods have the names of our table of methods. All values are for LLaMA2-7B. Accuracies and pass rates are in percent;
`percent` is the paper's %Param.
"""

import polars as pl

TABLE_1 = pl.DataFrame(
    [
        ("lora_r8", "8x1", 43.22, 0.062),
        ("lora_r16", "16x1", 45.45, 0.124),
        ("lora_r32", "32x1", 46.59, 0.248),
        ("lora_split_16x2", "16x2", 46.82, 0.248),
        ("lora_split_8x4", "8x4", 46.94, 0.248),
        ("lora_split_4x8", "4x8", 46.83, 0.248),
    ],
    schema=("method", "r_x_n", "general", "percent"),
    orient="row",
)
"""MMLU after training on Dolly-15K."""

TABLE_2 = pl.DataFrame(
    [
        ("base", 38.88, 35.98, 33.51, 13.10, 20.34, 10.38, None),
        ("full", 49.91, 46.78, 46.08, 20.24, 32.93, 25.70, 100.0),
        ("prompt_tuning", 39.91, 37.59, 35.02, 13.66, 21.55, 13.18, 0.001),
        ("p_tuning", 41.11, 39.81, 36.72, 13.60, 21.13, 15.56, 0.193),
        ("ia3", 40.45, 37.12, 35.25, 13.54, 23.17, 13.98, 0.009),
        ("prefix_tuning", 41.78, 40.28, 36.54, 13.23, 22.56, 16.89, 0.077),
        ("adalora", 44.32, 42.83, 39.36, 14.81, 23.78, 19.51, 0.093),
        ("lora_r8", 43.22, 41.59, 37.85, 15.67, 22.95, 18.24, 0.062),
        ("lora_r16", 45.45, 43.10, 39.64, 16.71, 25.60, 20.32, 0.124),
        ("lora_r32", 46.59, 44.32, 40.81, 17.12, 25.89, 20.67, 0.248),
        ("lora_split_8x4", 46.94, 45.28, 41.35, 18.20, 26.85, 21.92, 0.248),
        ("hydralora", 47.22, 45.71, 42.18, 18.31, 27.43, 22.27, 0.124),
    ],
    schema=("method", "general", "medical", "law", "code", "code_pass_at_10", "math", "percent"),
    orient="row",
)
"""Columns by domain: MMLU, its medical and law subsets, HumanEval pass@1 and pass@10, GSM8K."""

TABLE_3_MEANS = pl.DataFrame(
    [
        ("base", 31.6, None),
        ("lora_r8", 36.8, 0.062),
        ("lorahub", 39.7, 1.240),
        ("lora_moe", 40.3, 2.976),
        ("hydralora", 41.5, 0.341),
    ],
    schema=("method", "mixed", "percent"),
    orient="row",
)
"""BBH, 3-shot, after training on many tasks: the row "Avg Performance". 48 LoRAs were trained for LoraHub (20 of them
used) and for LoRA MoE. For LoRA and LoRA MoE, it is not the mean of the 27 rows above it (38.1, 40.0)."""

TABLE_4 = pl.DataFrame(
    [
        ("lora_r8", 0.058, 0.636, 0.063, 1.358),
        ("lora_r16", 0.126, 1.364, 0.127, 2.814),
        ("lora_r32", 0.263, 2.755, 0.280, 5.481),
        ("lora_split_8x4", 0.272, 2.908, 0.291, 5.633),
        ("hydralora", 0.127, 1.379, 0.132, 2.875),
    ],
    schema=("method", "cpu_kwh", "gpu_kwh", "ram_kwh", "hours"),
    orient="row",
)
"""Fine-tuning on GSM8K with four A40 GPUs."""

TABLE_5 = pl.DataFrame(
    [
        ("without_moe", 43.22, 41.59, 37.85),
        ("without_gate", 42.81, 40.92, 37.12),
        ("without_hydra", 46.94, 45.28, 41.35),
        ("hydralora", 47.22, 45.71, 42.18),
    ],
    schema=("method", "general", "medical", "law"),
    orient="row",
)
