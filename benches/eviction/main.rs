//! The benchmark of eviction: Larder's policy beside others, on traces shaped like those of registries. It prints what came of it;
//! it never judges that, and neither reads nor writes a file.

mod bound;
mod contenders;
mod dice;
mod model;
#[path = "../../src/store/eviction/policy.rs"]
mod policy;
mod ranked;
mod replay;
mod report;
mod s3fifo;
mod sieve;
mod workload;

use clap::Parser;

use contenders::{ALL, CHOICES, FEW, Stage};
use report::{Comparison, Workload};
use workload::{Parameters, Trace};

/// Replays traces against policies of eviction, and prints tables.
#[derive(Parser)]
struct Options {
    /// A tenth of the pulls: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Makes other traces by the same rules.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` adds to every benchmark's arguments.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let pulls = if options.quick { 12_000 } else { 120_000 };
    let usual = Parameters { seed: options.seed, pulls, ..Parameters::default() };
    let variants = [
        ("usual", usual.clone()),
        ("no scans", Parameters { one_off: 0.0, ..usual.clone() }),
        ("more scans", Parameters { one_off: 0.3, ..usual.clone() }),
        ("more releases", Parameters { churn: 0.1, ..usual.clone() }),
        ("less skew", Parameters { skew: 0.7, ..usual.clone() }),
        ("more skew", Parameters { skew: 1.2, ..usual }),
    ];
    let workloads = variants.map(|(name, parameters)| Workload { name, stage: Stage::new(Trace::generate(&parameters)) });
    report::traces(&workloads);

    let [usual, others @ ..] = &workloads;
    eprintln!("usual");
    let comparison = Comparison::of(&usual.stage, &ALL);
    comparison.ratios("object / byte hit ratio at a capacity of");
    comparison.upstream();
    comparison.whole_pulls();
    eprintln!("usual, other choices");
    let comparison = Comparison::of(&usual.stage, &CHOICES);
    comparison.ratios("Larder, object / byte hit ratio");
    comparison.whole_pulls();
    for workload in others {
        eprintln!("{}", workload.name);
        Comparison::of(&workload.stage, &FEW).ratios(workload.name);
    }
}
