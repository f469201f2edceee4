//! Extreme arguments of operators: sharp temperatures, huge scores, zero vectors, constant rows.

use mimco_engine::ops::{ContrastiveTargets, Layer, Norm, Positive, RunningStatistics};
use mimco_engine::{Parameters, Tape, Tensor, Var};
use std::sync::Arc;

/// Returns the loss, the fraction of wins and the queries' gradient.
fn info_nce(queries: &Tensor, targets: &ContrastiveTargets<'_>) -> (f32, f32, Vec<f32>) {
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(queries.clone());
    let (loss, wins) = tape.info_nce(&leaf, targets);
    let value = loss.value.item();
    let gradient = tape.backward(&loss, Tensor::scalar(1.0), &mut parameters.gradients(), Some(&leaf));
    (value, wins.item(), gradient.unwrap().to_host().to_vec())
}

/// With temperature 0.01 the logits of opposite keys are 200 apart, beyond what e^x holds in f32.
#[test]
fn sharp_info_nce_counts_the_whole_distance() {
    let queries = Tensor::from_slice([2, 2], &[3.0, 0.0, 0.0, 0.5]);
    let keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, -1.0, 0.0]);
    let targets = |indices| ContrastiveTargets { keys: &keys, positive: Positive::InKeys(indices), sample_ids: None, temperature: 0.01 };
    // Row 0: the positive is opposite (loss 200) or equal (0). Row 1: both keys are orthogonal, ln
    // 2, a tie.
    let (loss, wins, gradient) = info_nce(&queries, &targets(&[1, 1]));
    assert!((loss - (200.0 + std::f32::consts::LN_2) / 2.0).abs() < 1e-4, "{loss}");
    assert_eq!(wins, 0.5);
    // dq̂ of row 1: (k₀/2 + k₁/2 - k₁) / (0.01 · 2) = (50, 0), over |q| = 0.5.
    assert!((gradient[2] - 100.0).abs() < 1e-3 && gradient[3].abs() < 1e-3, "{gradient:?}");
    let (loss, wins, _) = info_nce(&queries, &targets(&[0, 0]));
    assert!((loss - std::f32::consts::LN_2 / 2.0).abs() < 1e-6, "{loss}");
    assert_eq!(wins, 1.0);
    // With the same key as a separate positive: another e^0 in row 0's sum, a third tie in row 1's.
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 1.0, 0.0]);
    let separate = ContrastiveTargets { keys: &keys, positive: Positive::Separate(&positives), sample_ids: None, temperature: 0.01 };
    let (loss, wins, _) = info_nce(&queries, &separate);
    assert!((loss - (2.0f32.ln() + 3.0f32.ln()) / 2.0).abs() < 1e-6, "{loss}");
    assert_eq!(wins, 1.0);
}

#[test]
fn info_nce_of_zero_and_huge_vectors_is_finite() {
    let queries = Tensor::from_slice([3, 2], &[0.0, 0.0, 1e18, 1e18, 1e-18, 0.0]);
    let keys = Tensor::from_slice([1, 3, 2], &[0.0, 0.0, 1e18, 0.0, 0.0, -1e-15]);
    let (loss, _, gradient) =
        info_nce(&queries, &ContrastiveTargets { keys: &keys, positive: Positive::InKeys(&[0, 1, 2]), sample_ids: None, temperature: 0.1 });
    assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
}

#[test]
fn info_nce_with_all_negatives_left_out_is_zero() {
    let queries = Tensor::from_slice([2, 2], &[1.0, 2.0, -1.0, 0.5]);
    let keys = Tensor::from_slice([1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let sample_ids: (&[u64], &[u64]) = (&[5, 5], &[5, 5, 5]);
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 0.0, 1.0]);
    for positive in [Positive::InKeys(&[0, 2]), Positive::Separate(&positives)] {
        let (loss, wins, gradient) =
            info_nce(&queries, &ContrastiveTargets { keys: &keys, positive, sample_ids: Some(sample_ids), temperature: 0.2 });
        assert_eq!((loss, wins), (0.0, 1.0));
        assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
    }
}

#[test]
fn info_nce_shows_keys_and_positives_that_are_not_finite() {
    let queries = Tensor::from_slice([2, 2], &[1.0, 2.0, -1.0, 0.5]);
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 0.0, 1.0]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bad_keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, value, 1.0]);
        let bad_positives = Tensor::from_slice([2, 2], &[1.0, value, 0.0, 1.0]);
        let good_keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, 0.0, 1.0]);
        for (keys, positive) in [
            (&bad_keys, Positive::InKeys(&[0, 0])),
            (&bad_keys, Positive::Separate(&positives)),
            (&good_keys, Positive::Separate(&bad_positives)),
        ] {
            let (loss, _, _) = info_nce(&queries, &ContrastiveTargets { keys, positive, sample_ids: None, temperature: 0.2 });
            assert!(loss.is_nan(), "{value}: {loss}");
        }
    }
}

#[test]
#[should_panic(expected = "as many queries in each group")]
fn info_nce_refuses_queries_that_belong_to_no_group() {
    let keys = Tensor::zeros([2, 4, 3]);
    let targets = ContrastiveTargets { keys: &keys, positive: Positive::InKeys(&[0; 5]), sample_ids: None, temperature: 0.2 };
    Tape::inference(&Parameters::new()).info_nce(&Var::constant(Tensor::zeros([5, 3])), &targets);
}

#[test]
#[should_panic(expected = "offsets")]
fn attention_refuses_images_that_leave_rows_out() {
    let offsets: Arc<[usize]> = [1, 3].into();
    Tape::inference(&Parameters::new()).attention(&Var::constant(Tensor::zeros([3, 12])), &offsets, 2);
}

/// Scores of ±1e6: each token attends only to the token of the largest score.
#[test]
fn attention_of_huge_scores_is_the_best_token() {
    // One head of size 1; q = ±1000, k = (-1000, 1000, 0).
    let qkv = Tensor::from_slice([3, 3], &[1e3, -1e3, 1.0, -1e3, 1e3, 2.0, 1e3, 0.0, 3.0]);
    let offsets: Arc<[usize]> = [0, 3].into();
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(qkv);
    let y = tape.attention(&leaf, &offsets, 1);
    assert_eq!(*y.value.to_host(), [2.0, 1.0, 2.0]);
    let gradient = tape.backward(&y, Tensor::from_slice([3, 1], &[1.0, 10.0, 100.0]), &mut parameters.gradients(), Some(&leaf)).unwrap();
    let expected = [0.0, 0.0, 10.0, 0.0, 0.0, 101.0, 0.0, 0.0, 0.0]; // of v only
    assert!(gradient.to_host().iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-6), "{:?}", gradient.to_host());
}

/// Scores that are all -∞ have no softmax, so the result is NaN.
#[test]
fn attention_without_any_finite_score_is_nan() {
    let qkv = Tensor::from_slice([2, 3], &[1.0, f32::NEG_INFINITY, 1.0, 1.0, f32::NEG_INFINITY, 1.0]);
    let y = Tape::inference(&Parameters::new()).attention(&Var::constant(qkv), &[0, 2].into(), 1);
    assert!(y.value.to_host().iter().all(|y| y.is_nan()));
}

#[test]
fn normalizations_of_constant_values_are_their_bias() {
    let mut parameters = Parameters::new();
    let [weight, bias] = ["weight", "bias"].map(|name| parameters.add(name, &[35]));
    parameters.update_on_host(weight, |w| w.fill(3.0));
    parameters.update_on_host(bias, |b| b.fill(0.25));
    for value in [0.0, -7.0, 4096.0] {
        for rows in [1, 5] {
            let x = Tensor::from_slice([rows, 35], &vec![value; rows * 35]);
            for which in ["layer", "batch"] {
                let mut tape = Tape::recording(&parameters);
                let leaf = tape.leaf(x.clone());
                let y = match which {
                    "layer" => tape.layer_norm(&leaf, Norm { weight, bias, eps: 1e-6 }),
                    _ => tape.batch_norm(&leaf, Some((weight, bias)), false, &mut RunningStatistics::new(35)),
                };
                assert!(y.value.to_host().iter().all(|y| *y == 0.25), "{which} {value}");
                let mut gradients = parameters.gradients();
                let seed = Tensor::from_slice([rows, 35], &(0..rows * 35).map(|i| i as f32 - 9.0).collect::<Vec<_>>());
                let dx = tape.backward(&y, seed, &mut gradients, Some(&leaf)).unwrap();
                assert!(dx.to_host().iter().chain(&gradients.flat_to_host()[..]).all(|g| g.is_finite()), "{which} {value}");
            }
        }
    }
}

#[test]
fn patch_embed_shows_a_nan_pixel() {
    let mut parameters = Parameters::new();
    let (weight, bias) = (parameters.add("weight", &[5, 1, 2, 2]), parameters.add("bias", &[5]));
    let mut pixels = [0.0; 16];
    pixels[10] = f32::NAN;
    let images = Tensor::from_slice([1, 1, 4, 4], &pixels);
    let y = Tape::inference(&parameters).patch_embed(&images, &[0.5], &[0.5], Layer { weight, bias: Some(bias) }, None);
    assert_eq!(y.value.to_host().iter().filter(|y| y.is_nan()).count(), 5);
}

#[test]
fn l1_keeps_nan_in_loss_and_gradient() {
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(Tensor::from_slice([1, 3], &[f32::NAN, 1.0, 2.0]));
    let loss = tape.l1(&leaf, &Tensor::from_slice([1, 3], &[0.0, 0.0, 2.0]));
    assert!(loss.value.item().is_nan());
    let gradient = tape.backward(&loss, Tensor::scalar(3.0), &mut parameters.gradients(), Some(&leaf)).unwrap();
    assert!(gradient.to_host()[0].is_nan());
    assert_eq!(gradient.to_host()[1..], [1.0, 0.0]);
}
