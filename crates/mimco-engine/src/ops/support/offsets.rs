//! Offsets of images in packed rows.

/// Checks that image i owns the rows `offsets[i]..offsets[i + 1]`, and that the images own all
/// rows.
pub(in crate::ops) fn check_offsets(offsets: &[usize], rows: usize) {
    let complete = offsets.first() == Some(&0) && offsets.last() == Some(&rows);
    assert!(complete && offsets.is_sorted(), "the images' offsets rise from 0 to the number of rows");
}
