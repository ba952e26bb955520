/* Ping-pong and allreduce of any MPI, as bench_test.go has them. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
	int rank, n;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &n);
	static char buf[1 << 20];
	static double in[1 << 17], out[1 << 17];
	if (n == 2) {
		for (int size = 1; size <= 1 << 20; size = size == 1 ? 1 << 10 : size == 1 << 10 ? 64 << 10 : size << 4) {
			int rounds = size > 1 << 15 ? 1000 : 20000;
			double t = 0;
			for (int i = -100; i < rounds; i++) {
				if (i == 0) t = MPI_Wtime();
				if ((i & 1) == rank) MPI_Send(buf, size, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD);
				else MPI_Recv(buf, size, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			}
			if (rank == 0) printf("pingpong %d: %.2f us\n", size, (MPI_Wtime() - t) / rounds * 1e6);
		}
	}
	for (int big = 0; big < 2; big++) {
		int count = big ? 1 << 17 : 1;
		int rounds = count == 1 ? 500 : 50;
		double t = 0;
		for (int i = -10; i < rounds; i++) {
			if (i == 0) t = MPI_Wtime();
			MPI_Allreduce(in, out, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
		}
		if (rank == 0) printf("allreduce %d: %.2f us\n", count * 8, (MPI_Wtime() - t) / rounds * 1e6);
	}
	MPI_Finalize();
	return 0;
}
