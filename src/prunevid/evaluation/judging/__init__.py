# SPDX-License-Identifier: Apache-2.0
"""VideoChatGPT-Bench: the answers of a run, judged by a language model from 0 to 5 in five aspects.

`cases` is what the judge is asked (in the words of `prompts`), `endpoint` and `stub` are judges, `replies` reads what
they say, `cache` keeps it, `scores` adds it up, and `session` does all of that for the folder of a run.
"""
