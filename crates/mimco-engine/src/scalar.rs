//! One f64 on a device.

/// A result in f64 on a device, read by [`Scalar::to_host`].
#[derive(Clone, Copy, Debug)]
pub struct Scalar {
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Cpu(f64),
}

impl Scalar {
    /// Wraps a value in main memory.
    pub(crate) fn cpu(value: f64) -> Scalar {
        Scalar { value: Value::Cpu(value) }
    }

    /// Copies the value to the host.
    pub fn to_host(self) -> f64 {
        match self.value {
            Value::Cpu(value) => value,
        }
    }
}
