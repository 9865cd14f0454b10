# SPDX-License-Identifier: Apache-2.0
"""`prunevid serve`: one loaded model that answers many clients, and an endpoint in OpenAI's format.

| module | knows |
|---|---|
| `settings` | every limit and option |
| `refusals` | why a request is turned down, and with which status |
| `worker` | whose turn it is: queue, fairness, cancelling, time limit; no model, no HTTP |
| `streaming` | tokens to text, as it comes |
| `engine` | questions for the worker, answered by one `VideoQA` |
| `media`, `fetching` | clips and pictures from data URLs, allowed files, allowed hosts |
| `schema` | the request in OpenAI's format |
| `metrics` | what is counted |
| `api`, `server` | HTTP |

The engine needs no web package; `api`, `metrics` and `server` need the extra `serve`.
"""
