"""Fine-tunes sentence-transformers behind the OpenAI protocol.

Data flows one way: `api` (HTTP) and `training` (the process of one job) read and write `store`; `supervisor` starts one
training process after the other; `serving` answers with finished models. Nothing but `training` and `serving` imports torch.
"""

__version__ = "0.1.0"
