# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts do: objects, dictionaries, strings, big integers, sorting, exceptions."""


class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def moved(self, dx):
        return Point(self.x + dx, self.y ^ dx)


def objects():
    p = Point(1, 2)
    for i in range(60000):
        p = p.moved(i & 15)
    return p.x + p.y


def words():
    count = {}
    for i in range(60000):
        w = "w%d" % (i * i % 1009)
        count[w] = count.get(w, 0) + len(w)
    return sum(v * (k + 1) for k, v in enumerate(sorted(count.values())))


def queens(n, row=0, cols=0, left=0, right=0):
    if row == n:
        return 1
    found = 0
    for c in range(n):
        bit = 1 << c
        if not (cols & bit or left & 1 << (row + c) or right & 1 << (row - c + n)):
            found += queens(n, row + 1, cols | bit, left | 1 << (row + c), right | 1 << (row - c + n))
    return found


def big():
    return pow(3, 20000) % (10**9 + 7) + len(str(7**4000))


def floats():
    return "%.9f" % sum((i * 0.5) ** 0.5 / (i + 1) for i in range(60000))


def errors():
    caught = 0
    for i in range(20000):
        try:
            [1, 2, 3][i & 7]
        except IndexError:
            caught += 1
    return caught


print(objects(), words(), queens(7), big(), floats(), errors())
