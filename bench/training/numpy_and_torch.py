"""One training run, the same work three times: this trainer, numpy (OpenBLAS) and torch, one thread each.

    bench/training.sh [PYTHON]     PYTHON: one that has numpy, and torch if it is to be compared

Closed form (mean, covariance of 20,000 vectors, whitening, their image) and contrastive stage (5 epochs of 10,240 examples,
4 skipped beside each saved item, Adam). Times are seconds on a processor, so that other programs do not count."""
import json, subprocess, sys, time

import numpy as np

try:
    import torch
except ImportError:
    torch = None
ITEMS, EXAMPLES, EPOCHS, K, BATCH = 20_000, 10_240, 5, 4, 256
TAU, LAMBDA, RATE, F = 0.1, 1e-3, 1e-3, np.float32
now = time.thread_time


def peak():
    a, b = (np.random.default_rng(i).random((2048, 2048), F) for i in (1, 2))
    times = []
    for _ in range(5):
        start = now()
        a @ b
        times.append(now() - start)
    return 2 * 2048**3 / min(times) / 1e9


def data(dim):
    r = np.random.default_rng(1)
    items = r.random((ITEMS, dim), F) - F(0.45)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    anchors = r.random((EXAMPLES, dim), F) - F(0.5)
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    return items, anchors, r.integers(0, ITEMS, (EXAMPLES, 1 + K)), r


def numpy_closed(items):
    dim = items.shape[1]
    mean = items.mean(0)
    centred = items - mean
    covariance = (centred.T @ centred / len(items)).astype(np.float64)
    c = 0.3 * covariance + 0.7 * np.trace(covariance) / dim * np.eye(dim)
    white = np.linalg.inv(np.linalg.cholesky(c)).astype(F)
    return centred @ white.T


def numpy_train(items, anchors, chosen, r, full):
    dim = items.shape[1]
    p = [np.zeros((dim, dim), F)] if full else [np.zeros((dim, 32), F), (r.standard_normal((dim, 32)) / dim**0.5).astype(F)]
    m, v, t = [np.zeros_like(x) for x in p], [np.zeros_like(x) for x in p], 0
    for _ in range(EPOCHS):
        order = r.permutation(EXAMPLES)
        for i in range(0, EXAMPLES, BATCH):
            b = order[i : i + BATCH]
            q, x = anchors[b], items[chosen[b]]
            z = q + (q @ p[0].T if full else (q @ p[1]) @ p[0].T)
            s = np.matmul(x, z[:, :, None])[:, :, 0] / F(TAU)
            s = np.exp(s - s.max(1, keepdims=True))
            g = s / s.sum(1, keepdims=True)
            g[:, 0] -= 1
            gz = np.matmul((g / F(TAU * BATCH))[:, None, :], x)[:, 0]
            if full:
                gradient = [gz.T @ q + F(2 * LAMBDA) * p[0]]
            else:
                gradient = [gz.T @ (q @ p[1]) + F(2 * LAMBDA) * p[0], q.T @ (gz @ p[0]) + F(2 * LAMBDA) * p[1]]
            length = sum(float(np.vdot(d, d)) for d in gradient) ** 0.5
            t += 1
            for w, d, a, c in zip(p, gradient, m, v):
                if length > 1:
                    d *= F(1 / length)
                a += F(0.1) * (d - a)
                c += F(0.001) * (d * d - c)
                w -= F(RATE / (1 - 0.9**t)) * a / (np.sqrt(c * F(1 / (1 - 0.999**t))) + F(1e-8))


def torch_closed(items):
    dim = items.shape[1]
    centred = items - items.mean(0)
    covariance = (centred.T @ centred / len(items)).double()
    c = 0.3 * covariance + 0.7 * covariance.trace() / dim * torch.eye(dim, dtype=torch.float64)
    white = torch.linalg.inv(torch.linalg.cholesky(c)).float()
    return centred @ white.T


def torch_train(items, anchors, chosen, full):
    dim = items.shape[1]
    p = [torch.zeros(dim, dim)] if full else [torch.zeros(dim, 32), torch.randn(dim, 32) / dim**0.5]
    for w in p:
        w.requires_grad_()
    adam, target = torch.optim.Adam(p, lr=RATE), torch.zeros(BATCH, dtype=torch.long)
    for _ in range(EPOCHS):
        for b in torch.randperm(EXAMPLES).split(BATCH):
            q, x = anchors[b], items[chosen[b]]
            z = q + (q @ p[0].T if full else (q @ p[1]) @ p[0].T)
            s = torch.bmm(x, z[:, :, None])[:, :, 0] / TAU
            loss = torch.nn.functional.cross_entropy(s, target) + LAMBDA * sum((w * w).sum() for w in p)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(p, 1.0)
            adam.step()


def timed(run):
    start = now()
    result = run()
    return now() - start, result


def main():
    lines = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    ours, together = [one for one in lines if "form" in one], [one for one in lines if "threads" in one]
    theirs = peak()
    print(f"sgemm peak, one thread: {ours[0]['peak']:.0f} GFLOP/s here, {theirs:.0f} in numpy; numpy {np.__version__}, "
          f"torch {torch.__version__ if torch else 'not installed: not compared'}")
    if torch:
        torch.set_num_threads(1)
    print(f"{'':16}{'ours s':>8}{'numpy s':>9}{'ratio':>7}{'torch s':>9}{'ratio':>7}{'GFLOP/s':>9}{'of own peak':>13}{'of numpy peak':>15}")
    for one in ours:
        items, anchors, chosen, r = data(one["dim"])
        full = one["form"] == "full"
        mine = one["closed_s"] + one["train_s"] + one["fold_s"]
        closed, moved = timed(lambda: numpy_closed(items))
        train, _ = timed(lambda: numpy_train(moved, anchors, chosen, r, full))
        torch_s = 0.0
        if torch:
            t = torch.from_numpy
            closed_t, moved = timed(lambda: torch_closed(t(items)))
            torch_s = closed_t + timed(lambda: torch_train(moved, t(anchors), t(chosen), full))[0]
        ratio = f"{torch_s / mine:7.2f}" if torch else f"{'-':>7}"
        print(f"{one['dim']:5} {one['form']:10}{mine:8.2f}{closed + train:9.2f}{(closed + train) / mine:7.2f}{torch_s:9.2f}{ratio}"
              f"{one['gflop_s']:9.0f}{100 * one['gflop_s'] / one['peak']:11.0f} %{100 * one['gflop_s'] / theirs:13.0f} %")
    for one in together:
        print(f"{one['dim']:5} contrastive stage, seconds by the clock: one thread {one['alone_s']:.2f}, {one['threads']} threads "
              f"{one['together_s']:.2f} ({one['alone_s'] / one['together_s']:.2f} times as fast, the same bytes)")


main()
