package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// moment is what the machine had used by then.
type moment struct {
	at     time.Time
	server time.Duration // processor time of the server's threads
	client time.Duration // and of this process
	core   int64         // ticks that passed on the server's core
	stolen int64         // of these, ticks in which another machine had it
}

// measured is what a run took. Delays are in microseconds.
type measured struct {
	Seconds       float64 `json:"seconds"`
	ServerSeconds float64 `json:"server_seconds"`
	ClientSeconds float64 `json:"client_seconds"`
	Stolen        float64 `json:"stolen"` // the share of the time
	Messages      int64   `json:"messages"`
	Bytes         int64   `json:"bytes"`
	Changes       int     `json:"changes"`
	DelayP50      float64 `json:"delay_p50"`
	DelayP99      float64 `json:"delay_p99"`
}

func look(pid, core int) (moment, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return moment{}, err
	}
	server, err := processorTime(pid)
	if err != nil {
		return moment{}, err
	}
	passed, stolen, err := ticks(core)
	client := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	return moment{at: time.Now(), server: server, client: client, core: passed, stolen: stolen}, err
}

func (m moment) until(end moment) *measured {
	return &measured{
		Seconds:       end.at.Sub(m.at).Seconds(),
		ServerSeconds: (end.server - m.server).Seconds(),
		ClientSeconds: (end.client - m.client).Seconds(),
		Stolen:        float64(end.stolen-m.stolen) / float64(max(1, end.core-m.core)),
	}
}

func (m *measured) tell(delays []time.Duration) {
	if len(delays) == 0 {
		return
	}
	slices.Sort(delays)
	m.DelayP50 = float64(delays[len(delays)/2].Nanoseconds()) / 1e3
	m.DelayP99 = float64(delays[len(delays)*99/100].Nanoseconds()) / 1e3
}

// processorTime adds up the threads of a process; /proc/PID/stat knows it to hundredths of a second only.
func processorTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d has no /proc/%d/task/*/schedstat", pid, pid)
	}
	var sum int64
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			return 0, err
		}
		used, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return time.Duration(sum), nil
}

// ticks reads how many ticks have passed on a core, and how many of them were stolen.
func ticks(core int) (passed, stolen int64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != fmt.Sprintf("cpu%d", core) {
			continue
		}
		for n, field := range fields[1:9] { // user, nice, system, idle, iowait, irq, softirq, steal
			value, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, 0, err
			}
			passed += value
			if n == 7 {
				stolen = value
			}
		}
		return passed, stolen, nil
	}
	return 0, 0, fmt.Errorf("/proc/stat has no core %d", core)
}
