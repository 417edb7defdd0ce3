//! The figures, round by round, and the table that they make.
//! It knows what a figure is called and which way is better; never how it came about.

use std::fmt::Write;

use crate::servers::Subject;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Its name and unit.
    pub(crate) name: &'static str,
    pub(crate) better: Better,
    /// Digits behind the point.
    pub(crate) digits: usize,
}

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

impl Figure {
    pub(crate) const fn more(name: &'static str, digits: usize) -> Self {
        Self { name, better: Better::More, digits }
    }

    pub(crate) const fn less(name: &'static str, digits: usize) -> Self {
        Self { name, better: Better::Less, digits }
    }
}

/// A row of the table: a figure under some conditions.
struct Row {
    conditions: &'static str,
    figure: Figure,
    /// In the order of [`Subject::ALL`], a value for each round.
    rounds: [Vec<f64>; Subject::ALL.len()],
}

/// What Larder's figure is to be, and what it is held against.
struct Target {
    conditions: &'static str,
    figure: Figure,
    bound: Bound,
}

/// A bound on Larder's figure. A peer's is that of the same round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// At most so many times a peer's.
    Times(f64, Subject),
    /// At least so many times a peer's.
    AtLeastTimes(f64, Subject),
    /// At most a peer's and so much more, in the figure's unit.
    Plus(f64, Subject),
    /// At most so many times what it is under other conditions.
    TimesUnder(f64, &'static str),
    /// At most this, in the figure's unit.
    Most(f64),
}

/// All figures.
#[derive(Default)]
pub(crate) struct Results {
    rows: Vec<Row>,
    targets: Vec<Target>,
}

impl Results {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, conditions: &'static str, figure: Figure, subject: Subject, value: f64) {
        let is_it = |row: &Row| row.conditions == conditions && row.figure == figure;
        let index = self.rows.iter().position(is_it).unwrap_or_else(|| {
            self.rows.push(Row { conditions, figure, rounds: Default::default() });
            self.rows.len() - 1
        });
        self.rows[index].rounds[subject as usize].push(value);
    }

    /// Aims at something; once, however often it is said.
    pub(crate) fn aim(&mut self, conditions: &'static str, figure: Figure, bound: Bound) {
        let is_it = |target: &Target| target.conditions == conditions && target.figure == figure && target.bound == bound;
        if self.targets.iter().any(is_it) {
            return;
        }
        self.targets.push(Target { conditions, figure, bound });
    }

    /// What was aimed at, as a further table in Markdown, and how many targets were missed. Nothing if there are none.
    pub(crate) fn targets(&self) -> (String, usize) {
        if self.targets.is_empty() {
            return (String::new(), 0);
        }
        let heading = ["", "Larder", "beside", "target", "measured", ""].map(str::to_owned).to_vec();
        let judged: Vec<_> = self.targets.iter().map(|target| self.judge(target)).collect();
        let missed = judged.iter().filter(|(_, is_met)| !is_met).count();
        let lines = [heading].into_iter().chain(judged.into_iter().map(|(cells, _)| cells));
        (format!("\n{}", align(&lines.collect::<Vec<_>>())), missed)
    }

    fn judge(&self, target: &Target) -> (Vec<String>, bool) {
        let Target { conditions, figure, bound } = target;
        let under = |conditions: &str, subject: Subject| {
            let row = self.rows.iter().find(|row| row.conditions == conditions && row.figure == *figure);
            row.map_or(&[][..], |row| &row.rounds[subject as usize])
        };
        let of = |subject| under(conditions, subject);
        let larder = of(Subject::Larder);
        let value = |values: &[f64]| median(values).map_or("–".to_owned(), |median| format!("{median:.*}", figure.digits));
        let times = |peer| ratios(larder, of(peer));
        let (measured, text) = match *bound {
            Bound::Times(_, peer) | Bound::AtLeastTimes(_, peer) => (median(&times(peer)), ratio(larder, of(peer))),
            Bound::Plus(_, peer) => {
                let more: Vec<_> = larder.iter().zip(of(peer)).map(|(larder, peer)| larder - peer).collect();
                (median(&more), spread(&more, figure.digits, true))
            }
            Bound::TimesUnder(_, other) => {
                let other = under(other, Subject::Larder);
                (median(&ratios(larder, other)), ratio(larder, other))
            }
            Bound::Most(_) => (median(larder), spread(larder, figure.digits, false)),
        };
        let is_met = measured.is_some_and(|measured| match *bound {
            Bound::Times(most, _) | Bound::TimesUnder(most, _) | Bound::Plus(most, _) | Bound::Most(most) => measured <= most,
            Bound::AtLeastTimes(least, _) => measured >= least,
        });
        let beside = |peer: Subject| format!("{} {}", peer.name(), value(of(peer)));
        let (beside, target) = match *bound {
            Bound::Times(most, peer) => (beside(peer), format!("≤ {most:.2} ×")),
            Bound::AtLeastTimes(least, peer) => (beside(peer), format!("≥ {least:.2} ×")),
            Bound::Plus(most, peer) => (beside(peer), format!("≤ +{most}")),
            Bound::TimesUnder(most, other) => {
                (format!("{other} {}", value(under(other, Subject::Larder))), format!("≤ {most:.2} ×"))
            }
            Bound::Most(most) => ("–".to_owned(), format!("≤ {most}")),
        };
        let cells = vec![
            format!("{conditions}: {}", figure.name),
            value(larder),
            beside,
            target,
            text,
            if is_met { "met" } else { "**missed**" }.to_owned(),
        ];
        (cells, is_met)
    }

    /// The table, in Markdown: medians, and Larder's part of its peers'.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![heading()];
        let mut conditions = "";
        for row in &self.rows {
            let name = if row.conditions == conditions { "…" } else { row.conditions };
            conditions = row.conditions;
            lines.push(row.cells(name));
        }
        align(&lines)
    }
}

fn heading() -> Vec<String> {
    let subjects = Subject::ALL.map(|subject| subject.name().to_owned());
    let ratios = [Subject::Nginx, Subject::DockerRegistry].map(|peer| format!("Larder ÷ {}", peer.name()));
    [String::new()].into_iter().chain(subjects).chain(ratios).collect()
}

impl Row {
    fn cells(&self, conditions: &str) -> Vec<String> {
        let better = match self.figure.better {
            Better::More => '↑',
            Better::Less => '↓',
        };
        let mut cells = vec![format!("{conditions}: {} {better}", self.figure.name)];
        for values in &self.rounds {
            cells.push(median(values).map_or("–".to_owned(), |median| format!("{median:.*}", self.figure.digits)));
        }
        for peer in [Subject::Nginx, Subject::DockerRegistry] {
            cells.push(ratio(&self.rounds[Subject::Larder as usize], &self.rounds[peer as usize]));
        }
        cells
    }
}

/// The median of the rounds' ratios, and in parentheses the least and the greatest: within a round, all had the same machine.
fn ratio(larder: &[f64], peer: &[f64]) -> String {
    let ratios = ratios(larder, peer);
    let least = ratios.iter().copied().reduce(f64::min);
    let greatest = ratios.iter().copied().reduce(f64::max);
    match (median(&ratios), least, greatest) {
        (Some(median), Some(least), Some(greatest)) if median.is_finite() => format!("{median:.2} ({least:.2}–{greatest:.2})"),
        _ => "–".to_owned(),
    }
}

/// The median, and in parentheses the least and the greatest.
fn spread(values: &[f64], digits: usize, is_difference: bool) -> String {
    let number = |value: f64| if is_difference { format!("{value:+.digits$}") } else { format!("{value:.digits$}") };
    let (least, greatest) = (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max));
    match (median(values), least, greatest) {
        (Some(median), Some(least), Some(greatest)) => format!("{} ({}–{})", number(median), number(least), number(greatest)),
        _ => "–".to_owned(),
    }
}

/// Round by round. A slow peer is measured in the first of every few rounds.
fn ratios(larder: &[f64], peer: &[f64]) -> Vec<f64> {
    let every = larder.len().div_ceil(peer.len().max(1)).max(1);
    larder.iter().step_by(every).zip(peer).map(|(larder, peer)| larder / peer).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let above = sorted.get(sorted.len() / 2)?;
    let below = sorted.get((sorted.len() - 1) / 2)?;
    Some((above + below) / 2.0)
}

/// Lays out rows, of which the first is the heading: its first column to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = if column == 0 { write!(text, "|-{:-<width$}-", "") } else { write!(text, "|-{:-<width$}:", "") };
            }
            text.push_str("|\n");
        }
    }
    text
}
