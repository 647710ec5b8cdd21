from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TransplantReport:
    copied: tuple
    reshaped: tuple
    left_new: tuple
    unused: tuple


def transplant(source, target, rename=None):
    st = target.state_dict()
    c, r, u = [], [], []
    with torch.no_grad():
        for k, v in source.items():
            n = rename(k) if rename else k
            if n in st and st[n].numel() == v.numel():
                st[n].copy_(v.reshape(st[n].shape))
                c.append(n)
            else:
                u.append(n)
    return TransplantReport(tuple(c), tuple(r), tuple(k for k in st if k not in c), tuple(u))
