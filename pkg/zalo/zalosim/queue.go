package zalosim

import (
	"container/heap"
	"sync"
	"time"
)

type jobKind uint8

const (
	jobCallback jobKind = iota
	jobDeliver          // the phone gets it; then a jobCallback
)

// job is something that happens to a message at a time.
type job struct {
	at    int64 // Unix nanoseconds
	order uint64
	msg   int32
	epoch int
	kind  jobKind
	try   int   // resends so far
	stamp int64 // the callback's timestamp in Unix milliseconds: a resend is the same to the byte
	plan  plan
}

// queue holds jobs by time. It is not bounded but by the number of messages: each has at most one job.
type queue struct {
	wake chan struct{} // buffered 1: the first job has changed

	mu    sync.Mutex // guards jobs and n
	jobs  jobHeap
	order uint64
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(j job) {
	q.mu.Lock()
	q.order++
	j.order = q.order
	heap.Push(&q.jobs, &j)
	first := q.jobs[0].order == j.order
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// pop returns the first job when it is due, else how long until it is; negative: there is none.
func (q *queue) pop(now time.Time) (j job, due bool, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		return job{}, false, -1
	}
	if wait := time.Duration(q.jobs[0].at - now.UnixNano()); wait > 0 {
		return job{}, false, wait
	}
	return *heap.Pop(&q.jobs).(*job), true, 0
}

func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = nil
}

type jobHeap []*job

func (h jobHeap) Len() int { return len(h) }
func (h jobHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].order < h[j].order
}
func (h jobHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)   { *h = append(*h, x.(*job)) }
func (h *jobHeap) Pop() any {
	old := *h
	j := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return j
}

// dispatch runs deliveries when they are due and hands callbacks to the workers. It never waits for a worker: callbacks
// that find none free stand in a line, and the phones get their messages all the same.
func (s *Sim) dispatch(work chan<- job) {
	defer close(work)
	var line []job
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		j, due, wait := s.queue.pop(time.Now())
		switch {
		case due && j.kind == jobDeliver:
			s.deliver(j)
			continue
		case due:
			line = append(line, j)
			continue
		}
		var ready chan<- job
		var next job
		if len(line) > 0 {
			ready, next = work, line[0]
		}
		if wait < 0 {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case ready <- next:
			line = line[1:]
		case <-s.queue.wake:
		case <-timer.C:
		case <-s.done:
			return
		}
	}
}
