from dataclasses import dataclass

import torch


def confusion_matrix(target, labels, num_classes, ignore_index=255):
    k = target != ignore_index
    return torch.bincount(target[k].long() * num_classes + labels[k].long(), minlength=num_classes**2).view(
        num_classes, num_classes
    )


@dataclass
class Scores:
    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    per_class: list

    @staticmethod
    def from_confusion(H, names, absent="exclude"):
        H = H.double()
        t = H.sum(1)
        d = H.diag()
        iu = d / (t + H.sum(0) - d)
        k = t > 0
        return Scores(
            (d.sum() / t.sum()).item(),
            (d / t)[k].mean().item(),
            iu[k].mean().item(),
            (t * iu)[k].sum().item() / t.sum().item(),
            [
                dict(name=n, accuracy=(d[i] / t[i]).item(), iu=iu[i].item(), pixels=int(t[i]))
                for i, n in enumerate(names)
            ],
        )

    def to_dict(s):
        return dict(s.__dict__)

    def __getitem__(s, k):
        return getattr(s, k)
