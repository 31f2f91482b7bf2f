#!/usr/bin/env python3
"""How the time of a prompt's token grows with the tokens before it.

    bench/growth.py MODEL [--tamis PATH] [--threads 2] [--svg docs/growth.svg] [--most 16384]

Runs `tamis bench MODEL -p 512 -d 0,512,1024,...` and fits `time = a + b * positions`, where
`positions` is the mean number of positions that a token of the 512 sees. The linear layers
cost the same for every token (a); attention costs 4 * heads * head_dim * layers operations a
position (b). Prints the points, the fit, how far points lie from it, and the rate of attention
that b stands for; writes the picture. Python's standard library only.
"""

import argparse
import json
import subprocess
import sys

CHUNK = 512


def measure(arguments):
    depths, depth = [0], CHUNK
    while depth + CHUNK <= arguments.most:
        depths.append(depth)
        depth *= 2
    depths.append(arguments.most - CHUNK)
    command = [arguments.tamis, "bench", arguments.model, "-p", str(CHUNK), "-n", "0", "-o", "json",
               "-d", ",".join(map(str, depths)), "-t", str(arguments.threads), "-r", str(arguments.repetitions)]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    points = []
    for row in rows:
        best = sorted(row["samples"])[len(row["samples"]) // 2]
        points.append((row["depth"] + (CHUNK + 1) / 2, 1e3 / best, row["flops_per_token"]))
    return command, points


def fit(points):
    """Least squares of time over positions, each point weighed by 1 / time^2: relative errors."""
    weights = [1 / y**2 for _, y, _ in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _, _) in zip(weights, points)) / total
    mean_y = sum(w * y for w, (_, y, _) in zip(weights, points)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _, _) in zip(weights, points))
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y, _) in zip(weights, points)) / spread
    return mean_y - slope * mean_x, slope


def picture(points, fixed, slope, title):
    width, height, left, bottom = 640, 400, 70, 50
    most_x = max(x for x, _, _ in points) * 1.05
    most_y = max(y for _, y, _ in points) * 1.1
    place_x = lambda x: left + x / most_x * (width - left - 20)
    place_y = lambda y: height - bottom - y / most_y * (height - bottom - 40)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{width / 2}" y="20" text-anchor="middle" font-size="14">{title}</text>']
    for i in range(5):
        x, y = most_x * i / 4, most_y * i / 4
        out.append(f'<text x="{place_x(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:.0f}</text>')
        out.append(f'<text x="{left - 8}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
        out.append(f'<line x1="{left}" y1="{place_y(y):.1f}" x2="{width - 20}" y2="{place_y(y):.1f}" stroke="#ddd"/>')
    out.append(f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">positions that a token sees (mean)</text>')
    out.append(f'<text x="18" y="{height / 2}" transform="rotate(-90 18 {height / 2})" text-anchor="middle">ms a token</text>')
    line = lambda y0, y1, colour, name: out.extend([
        f'<line x1="{place_x(0):.1f}" y1="{place_y(y0):.1f}" x2="{place_x(most_x):.1f}" y2="{place_y(y1):.1f}" stroke="{colour}"/>',
        f'<text x="{width - 24}" y="{place_y(y1) - 6:.1f}" text-anchor="end" fill="{colour}">{name}</text>'])
    line(fixed, fixed, "#888", "linear layers")
    line(fixed, fixed + slope * most_x, "#06c", "linear layers and attention by operations")
    out.extend(f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="4" fill="#c30"/>' for x, y, _ in points)
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tamis", default="tamis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--most", type=int, default=16384)
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    command, points = measure(arguments)
    fixed, slope = fit(points)
    # Operations a token grow by the same number for each position.
    (first_x, _, first_f), (last_x, _, last_f) = points[0], points[-1]
    a_position = (last_f - first_f) / (last_x - first_x)
    print("$ " + " ".join(command))
    print(f"{'positions':>10} {'ms a token':>11} {'fit':>7} {'off':>6}")
    for x, y, _ in points:
        line = fixed + slope * x
        print(f"{x:10.0f} {y:11.4f} {line:7.4f} {100 * (y / line - 1):+5.1f}%")
    print(f"linear layers {fixed:.4f} ms a token; attention {a_position / 1e3:.1f} thousand operations a position, "
          f"{a_position / slope / 1e6:.0f} GFLOP/s")
    if arguments.svg:
        with open(arguments.svg, "w") as file:
            file.write(picture(points, fixed, slope, "Time of a prompt's token by the positions before it"))


if __name__ == "__main__":
    sys.exit(main())
