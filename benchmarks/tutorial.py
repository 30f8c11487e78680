"""The other side of `main_job`: knowledge distillation under Ray Tune as its tutorials write it.

    python -m benchmarks.tutorial JOB.json

A function trainable with default settings (actors are reused where JOB.json says so): an actor a trial, a DataLoader
over PIL images with torchvision's transforms, the teacher's pass in every step, float32, a report after every epoch.
JOB.json names networks, images and weights, and the points: for each its hyperparameters and how many epochs to train.
Times are printed as JSON lines.
"""

import json
import sys
import time
from pathlib import Path


def mark(name, **content):
    """Tell the reader of our output that something has happened."""
    print(json.dumps({"mark": name, "time": time.time(), **content}), flush=True)


def network(job, name):
    """The same network as in the search; the transforms normalise, so its own normalisation is left out."""
    from trainables import models

    known = {key: job[key] for key in ("n_classes", "channels", "size", "mean", "std")}
    return models.build(name, **known).body


def loader(job, part, *, train):
    """A DataLoader over PIL images; as in the search, the ragged last training batch is dropped."""
    import numpy as np
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    steps = [transforms.ToTensor(), transforms.Normalize(job["mean"], job["std"])]
    if train and job["augment"] == "crop_flip":
        cut = transforms.RandomCrop(job["size"], padding=4)
        steps = [cut, transforms.RandomHorizontalFlip(), *steps]
    change = transforms.Compose(steps)
    stored = np.load(job["images"])
    images, labels = stored[f"{part}_images"], stored[f"{part}_labels"]

    class Images(Dataset):
        def __len__(self):
            return len(labels)

        def __getitem__(self, i):
            pixels = images[i].transpose(1, 2, 0)
            picture = Image.fromarray(pixels.squeeze(-1) if job["channels"] == 1 else pixels)
            return change(picture), int(labels[i])

    return DataLoader(Images(), batch_size=job["batch_size"], shuffle=train, drop_last=train)


def train_student(config):
    """What Ray Tune runs for each point."""
    import torch
    import torch.nn.functional as F
    from ray import tune

    job, point = config["job"], config["point"]
    teacher, student = network(job, job["teacher"]), network(job, job["student"])
    teacher.load_state_dict(torch.load(job["weights"], weights_only=True))
    teacher.eval()
    train, val = loader(job, "train", train=True), loader(job, "val", train=False)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=job["lr"], momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job["epochs"])
    temperature, alpha = point["temperature"], point["alpha"]
    for _ in range(point["epochs"]):
        student.train()
        for images, labels in train:
            with torch.no_grad():
                taught = teacher(images).logits
            logits = student(images).logits
            soft = F.kl_div(
                F.log_softmax(logits / temperature, 1),
                F.softmax(taught / temperature, 1),
                reduction="batchmean",
            )
            hard = F.cross_entropy(logits, labels)
            loss = (1 - alpha) * hard + alpha * temperature**2 * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        student.eval()
        with torch.no_grad():
            right = sum((student(x).logits.argmax(1) == y).sum().item() for x, y in val)
        accuracy = right / len(val.dataset)
        tune.report({"accuracy": accuracy, "threads": torch.get_num_threads()})


def main():
    """Search all points."""
    import ray
    from ray import tune

    job = json.loads(Path(sys.argv[1]).read_text())
    points = job.pop("points")
    ray.init()
    mark("ready")
    tuner = tune.Tuner(
        train_student,
        param_space={"job": job, "point": tune.grid_search(points)},
        tune_config=tune.TuneConfig(
            metric="accuracy", mode="max", reuse_actors=job["reuse_actors"]
        ),
        run_config=tune.RunConfig(storage_path=job["storage"]),
    )
    results = tuner.fit()
    best = results.get_best_result().metrics or {}
    mark("searched", errors=len(results.errors), best=best["accuracy"], threads=best["threads"])


if __name__ == "__main__":
    main()
