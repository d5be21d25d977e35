package kafka

// Rewind puts r back to positions without asking whether they still exist, as if it had been slow.
func (r *Reader) Rewind(positions map[int32]int64) error {
	r.client.Close()
	return r.begin(r.topicID, positions)
}
