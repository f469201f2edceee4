//! Update rules of optimizers.

/// Update rule of an optimizer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019), as PyTorch computes it.
    AdamW {
        /// Decay rate of the mean of gradients.
        beta1: f32,
        /// Decay rate of the mean of squared gradients.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
    /// Stochastic gradient descent with momentum and decay added to the gradient, as PyTorch
    /// computes it.
    Sgd {
        /// Factor of the previous update.
        momentum: f32,
    },
}
