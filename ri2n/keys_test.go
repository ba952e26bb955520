package ri2n

func keyVectorNames() []string { return nil }
