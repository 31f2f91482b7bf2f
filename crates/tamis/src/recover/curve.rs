//! A picture of a training run as SVG: perplexity on the validation texts (left, logarithmic) and the
//! training loss (right) against steps. Same numbers, same bytes. Knows no training; greys and colours
//! read on light and on dark paper.

use std::fmt::Write;

use super::report::Point;

/// One line: what it shows, and `(step, value)` in order of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it shows.
    pub name: String,
    /// Points; those that are no finite number are left out.
    pub points: Vec<(u64, f64)>,
}

/// The whole picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Stands above it.
    pub title: String,
    /// Loss of the training text.
    pub loss: Line,
    /// Perplexity, a line a text.
    pub perplexity: Vec<Line>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Where lines are drawn: left, right, top, bottom.
const AREA: [f64; 4] = [64.0, 656.0, 64.0, 388.0];
const GREY: &str = "#808080";
const LOSS: &str = "#9a9a9a";
const COLOURS: [&str; 6] = ["#2f81d8", "#d9772b", "#3a9d5d", "#a663cc", "#c9504c", "#2a9d9d"];

impl Curve {
    /// That of a run's validations; a dense model is a level line.
    pub fn of(history: &[Point], dense: Option<f64>) -> Self {
        let line = |name: &str, value: &dyn Fn(&Point) -> Option<f64>| Line {
            name: name.into(),
            points: history.iter().filter_map(|p| Some((p.step as u64, value(p)?))).collect(),
        };
        let mut perplexity = vec![line("validation", &|p| Some(p.perplexity()))];
        perplexity.push(line("second text", &|p| p.also.map(f64::exp)));
        perplexity.push(line("dense, validation", &|_| dense));
        perplexity.retain(|line| !line.points.is_empty());
        Self {
            title: "perplexity and training loss by step".into(),
            loss: line("training loss", &|p| p.train),
            perplexity,
        }
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"{GREY}\">\n"
        );
        text(&mut out, (WIDTH / 2.0, 22.0), "middle", &self.title);
        let steps = || self.perplexity.iter().chain([&self.loss]).flat_map(finite).map(|(step, _)| step);
        let last = steps().fold(1.0, f64::max);
        let x = Axis { range: (0.0, last), place: (AREA[0], AREA[1]), log: false };
        let values = self.perplexity.iter().flat_map(finite).map(|(_, v)| v).filter(|v| *v > 0.0);
        let left = Axis::of(values, true);
        let right = Axis::of(finite(&self.loss).map(|(_, v)| v), false);
        for step in x.ticks() {
            text(&mut out, (x.at(step), AREA[3] + 18.0), "middle", &number(step));
        }
        for (axis, (edge, anchor)) in [(&left, (AREA[0] - 8.0, "end")), (&right, (AREA[1] + 8.0, "start"))] {
            for value in axis.ticks() {
                text(&mut out, (edge, axis.at(value) + 4.0), anchor, &number(value));
                if axis.log {
                    rule(&mut out, axis.at(value), "0.3");
                }
            }
        }
        rule(&mut out, AREA[3], "1");
        text(&mut out, (WIDTH / 2.0, HEIGHT - 12.0), "middle", "step");
        text(&mut out, (4.0, AREA[2] - 10.0), "start", "perplexity");
        text(&mut out, (AREA[1] + 8.0, AREA[2] - 10.0), "start", "loss");
        let mut drawn = vec![(&self.loss, &right, LOSS, "1")];
        let colours = COLOURS.iter().cycle();
        drawn.extend(self.perplexity.iter().zip(colours).map(|(line, colour)| (line, &left, *colour, "2")));
        let slot = (AREA[1] - AREA[0]) / drawn.len() as f64;
        for (index, (line, axis, colour, width)) in drawn.into_iter().enumerate() {
            draw(&mut out, (line, &x, axis), (colour, width));
            let at = (AREA[0] + slot * index as f64, AREA[2] - 28.0);
            legend(&mut out, at, colour, &line.name);
        }
        out + "</svg>\n"
    }
}

fn finite(line: &Line) -> impl Iterator<Item = (f64, f64)> + '_ {
    line.points.iter().filter(|(_, v)| v.is_finite()).map(|(step, v)| (*step as f64, *v))
}

/// Values to places.
struct Axis {
    range: (f64, f64),
    place: (f64, f64),
    log: bool,
}

impl Axis {
    /// An upright axis that holds all `values`, with a little room.
    fn of(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let scale = |v: f64| if log { v.ln() } else { v };
        let (low, high) =
            values.map(scale).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = ((high - low) * 0.05).max(0.01);
        Self { range: (low - room, high + room), place: (AREA[3], AREA[2]), log }
    }
    fn at(&self, value: f64) -> f64 {
        let scaled = if self.log { value.ln() } else { value };
        let share = (scaled - self.range.0) / (self.range.1 - self.range.0);
        self.place.0 + share * (self.place.1 - self.place.0)
    }
    /// Round numbers in the range: multiples of 1, 2 or 5 times a power of ten; over a wide logarithmic
    /// range these numbers themselves.
    fn ticks(&self) -> Vec<f64> {
        let (low, high) = if self.log { (self.range.0.exp(), self.range.1.exp()) } else { self.range };
        if self.log && high / low > 8.0 {
            let powers = low.log10().floor() as i32..=high.log10().floor() as i32;
            let steps: &[f64] = if high / low > 1e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = powers.flat_map(|p| steps.iter().map(move |m| m * 10f64.powi(p)));
            return all.filter(|v| (low..=high).contains(v)).collect();
        }
        let ten = 10f64.powf(((high - low) / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * ten).into_iter().find(|s| (high - low) / s <= 6.0);
        let step = step.unwrap_or(10.0 * ten);
        let first = (low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= high).collect()
    }
}

/// Four digits at most matter on an axis.
fn number(value: f64) -> String {
    let digits = (3 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    short.to_owned()
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

fn rule(out: &mut String, y: f64, strength: &str) {
    let [left, right, ..] = AREA;
    let line = format!("x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"");
    let _ = writeln!(out, "<line {line} stroke=\"{GREY}\" stroke-opacity=\"{strength}\"/>");
}

fn draw(out: &mut String, (line, x, y): (&Line, &Axis, &Axis), (colour, width): (&str, &str)) {
    let points = finite(line).filter(|(_, v)| !y.log || *v > 0.0);
    let places: Vec<String> = points.map(|(s, v)| format!("{:.1},{:.1}", x.at(s), y.at(v))).collect();
    let line = format!("points=\"{}\" fill=\"none\"", places.join(" "));
    let _ = writeln!(out, "<polyline {line} stroke=\"{colour}\" stroke-width=\"{width}\"/>");
}

fn legend(out: &mut String, (x, y): (f64, f64), colour: &str, name: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>",
        y - 6.0
    );
    text(out, (x + 20.0, y), "start", name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: impl Fn(u64) -> f64) -> Line {
        Line { name: name.into(), points: (0..=10).map(|i| (i * 50, value(i))).collect() }
    }

    fn curve() -> Curve {
        Curve {
            title: "wanda50 <mended> & measured".into(),
            loss: line("training loss", |i| 4.0 - 0.2 * i as f64),
            perplexity: vec![line("wikitext2", |i| 90.0 / (1.0 + i as f64)), line("c4", |i| 30.0 + i as f64)],
        }
    }

    #[test]
    fn all_lines_lie_inside_and_text_is_escaped() {
        let svg = curve().svg();
        assert_eq!(svg, curve().svg());
        assert!(svg.contains("wanda50 &lt;mended&gt; &amp; measured"), "{svg}");
        let lines: Vec<&str> = svg.lines().filter(|l| l.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), 3);
        for line in lines {
            let points = line.split('"').nth(1).unwrap();
            assert_eq!(points.split(' ').count(), 11);
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((AREA[0]..=AREA[1]).contains(&x) && (AREA[2]..=AREA[3]).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = |low: f64, high: f64, log| Axis::of([low, high].into_iter(), log).ticks();
        assert_eq!(axis(8.0, 80.0, true), [10.0, 20.0, 50.0]);
        assert_eq!(axis(2.0, 4.0, false), [2.0, 2.5, 3.0, 3.5, 4.0]);
        for (low, high) in [(1e-3, 1e9), (20.0, 20.0), (19.9, 20.1), (3.0, 11.0), (5.0, 4e4)] {
            for log in [false, true] {
                let ticks = axis(low, high, log);
                assert!((1..=14).contains(&ticks.len()), "{low} {high} {log}: {ticks:?}");
            }
        }
        assert_eq!([0.5, 20.0, 1500.0, 0.0].map(number), ["0.5", "20", "1500", "0"]);
    }

    #[test]
    fn numbers_that_are_none_and_no_numbers_draw_nothing() {
        let empty = Line { name: "none".into(), points: vec![(0, f64::NAN), (5, f64::INFINITY)] };
        let svg = Curve { title: String::new(), loss: empty.clone(), perplexity: vec![empty] }.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
