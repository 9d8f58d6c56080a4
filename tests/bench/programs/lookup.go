// How long gopsutil takes to name the program behind a connection, as its users do it: read the whole
// table, look for source address and port, ask for the path. Prints nanoseconds and the path, one
// line for each round: lookup ROUNDS [IP PORT]. Without IP and PORT only the table is read.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/net"
	"github.com/shirou/gopsutil/process"
)

func find(ip string, port uint32) (string, error) {
	table, err := net.Connections("inet")
	if err != nil || ip == "" {
		return "", err
	}
	for _, connection := range table {
		if connection.Laddr.IP == ip && connection.Laddr.Port == port {
			owner, err := process.NewProcess(connection.Pid)
			if err != nil {
				return "", err
			}
			return owner.Exe()
		}
	}
	return "", fmt.Errorf("no connection from %s:%d", ip, port)
}

func main() {
	ip, port := "", 0
	rounds, err := strconv.Atoi(os.Args[1])
	if err == nil && len(os.Args) == 4 {
		ip = os.Args[2]
		port, err = strconv.Atoi(os.Args[3])
	}
	for round := 0; err == nil && round < rounds; round++ {
		begun := time.Now()
		var path string
		path, err = find(ip, uint32(port))
		fmt.Println(time.Since(begun).Nanoseconds(), path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
