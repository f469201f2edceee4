//! Operators without gradients, and running statistics of skipped steps.

use mimco_engine::ops::RunningStatistics;
use mimco_engine::{Parameters, Tape, Tensor, Var};

#[test]
fn scale_rounds_as_the_product_in_f32() {
    for (value, factor) in [(0.1, 0.3), (-7.7, 1e-30), (f32::INFINITY, 2.0)] {
        assert_eq!(Tensor::scalar(value).scale(factor).item().to_bits(), (value * factor).to_bits());
    }
    assert!(Tensor::scalar(f32::NAN).scale(0.0).item().is_nan());
}

#[test]
fn mean_cosine_is_that_of_the_rows() {
    let a = Tensor::from_slice([3, 2], &[1.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
    let b = Tensor::from_slice([3, 2], &[5.0, 0.0, 4.0, -3.0, 1.0, 1.0]);
    assert_eq!(a.mean_cosine(&b).to_host(), 1.0 / 3.0);
    assert_eq!(Tensor::zeros([0, 2]).mean_cosine(&Tensor::zeros([0, 2])).to_host(), 0.0);
}

#[test]
fn selected_rows_without_a_tape_are_those_of_the_operator() {
    let x = Tensor::from_slice([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let y = x.select_rows(&[2, 0, 2]);
    assert_eq!(y.dims(), [3, 2]);
    assert_eq!(*y.to_host(), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
}

#[test]
fn running_statistics_of_a_skipped_step_are_reverted() {
    let parameters = Parameters::new();
    let mut running = RunningStatistics::new(2);
    let step = |running: &mut RunningStatistics, value: f32, finite: f32| {
        let x = Var::constant(Tensor::from_slice([2, 2], &[value, 1.0, 3.0, -value]));
        Tape::inference(&parameters).batch_norm(&x, None, false, running);
        running.settle(&Tensor::scalar(finite));
        (running.mean_to_host().into_owned(), running.variance_to_host().into_owned())
    };
    let kept = step(&mut running, 0.5, 1.0);
    assert_ne!(kept, (vec![0.0; 2], vec![1.0; 2]));
    assert_eq!(step(&mut running, f32::NAN, 0.0), kept);
    let mut restored = RunningStatistics::from_host(&kept.0, &kept.1);
    assert_eq!(step(&mut restored, 2.0, 0.0), kept);
    assert_eq!(step(&mut running, 2.0, 1.0), step(&mut restored, 2.0, 1.0));
}
