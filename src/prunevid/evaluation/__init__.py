# SPDX-License-Identifier: Apache-2.0
"""The paper's four benchmarks: MVBench, Video-MME, EgoSchema and VideoChatGPT-Bench (docs/evaluation.md).

`items` is what a benchmark asks, `runs` what a model answered and where that is kept; every other module turns the one
into the other or reads the second.
"""
